"""Initial parameters: drawn at random, or tight frames that start a deep autoencoder as PCA.

A rectifier loses half of what it is given. But two filters of opposite sign lose nothing,

    relu(z) - relu(-z) = z,

so a tied layer with the kernels [Q; -Q] is inverted by its own transpose where Q is a tight frame
(`convae.models.frames`): ``h(K, relu(c(K, V))) = V``. A layer above acts on the *signal*, which is
the difference of such pairs, in the same way. A stack starts as the composition of its layers'
projections; with a code as large as the image that is the identity, and with a smaller one, whose
kernel is as large as its input, it is PCA.

With a signal's mean m and the factors g_b and g that the activations of input and code put on
signals (1 for pairs of rectifiers, the slope at 0 elsewhere), a layer is

    K = Q / sqrt(g_b g),    b = -c(K, m),    a = mean of V / g_b - mean of h(K, H).

An output activation is met half-way: ``f_out(s R + t)``, with s and t fitted to the images, starts
where R does, and s takes the place of 1 / g_b in the lowest layer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd, prod, sqrt
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from convae.engine import Array, ArrayBackend, to_numpy
from convae.engine.geometry import Geometry
from convae.errors import UserError, check_choice, check_range
from convae.models import backpropagation, biases, frames
from convae.models.activations import Activation
from convae.models.frames import Basis, Floats, Moments
from convae.models.layers import TiedConvolution

if TYPE_CHECKING:
    from convae.models.autoencoder import Autoencoder

Drawn: TypeAlias = dict[str, np.ndarray[Any, Any]]

FROM_DATA = ("pca", "parseval")
METHODS = (*FROM_DATA, "orthogonal", "he")

BATCH = 256
"""Images that pass through a layer at a time."""

FIT_VALUES = 200_000
"""Values, at most, to which an output activation is fitted."""

IDLE_BIAS = 0.1
"""Hidden bias of filters that start with a kernel of zeros, so that gradients reach them."""

NUMPY = ArrayBackend()


def initialise(
    model: Autoencoder,
    method: str = "pca",
    images: Array | None = None,
    seed: int | None = None,
) -> None:
    """Give a model new initial parameters.

    Parameters
    ----------
    model : Autoencoder
        Its parameters are overwritten.
    method : {"pca", "parseval", "orthogonal", "he"}
        "pca": tight frames of the images' own leading directions, layer by layer; a stack whose
        uppermost kernel is as large as its input starts as PCA. "parseval": the same with random
        directions. "orthogonal": random kernels with orthogonal rows (Saxe et al. 2014), "he":
        normal ones (He et al. 2015), both of Glorot's mean variance, with biases of zero.
    images : (N, C, *size) ndarray, optional
        Training images, of the model's dtype; for "pca" and "parseval", which need them. Some
        thousands are enough; every layer's codes of all of them are kept for a while.
    seed : int, optional
        Seed of what is drawn; the model's own by default.

    Raises
    ------
    UserTypeError, UserError
        If the method is unknown, or needs images and has none that fit.

    Notes
    -----
    The start is exact where the kernels' taps can meet each position once (for example a kernel no
    smaller than the stride, and padding "same"), there are two filters for each number of a
    stride's patch (one with the identity as activation), and the biases can hold the mean. Where
    filters are fewer, the layer starts as the projection on as many directions.
    """
    check_choice("method", method, METHODS)
    seed = model.seed if seed is None else seed
    check_range("seed", seed, at_least=0, integer=True)
    rng = np.random.default_rng(seed)
    if method not in FROM_DATA:
        draw = he if method == "he" else orthogonal
        for layer in model.layers:
            _set(layer, draw(layer, rng))
        return
    if images is None:
        raise UserError(f"images: none given, but method {method!r} starts from training images")
    images, _ = model.check_batch(images)
    if not bool(model.xp.isfinite(images).all()):
        raise UserError("images: some values are not finite; leave these images out")

    def basis(moments: Moments, count: int) -> Floats:
        if method == "pca":
            return moments.leading(count)
        return frames.random_directions(moments.length, count, rng)

    f_out = model.output_activation
    _walk(model, images, basis, rng, Output())
    if f_out.name != "identity":
        some = images[:: -(-images.size // FIT_VALUES)]
        R = backpropagation.decode(model.layers, model.encode(some), activate=False)
        _walk(model, images, basis, rng, fit_output(f_out, to_numpy(R), to_numpy(some)))


def he(layer: TiedConvolution, rng: np.random.Generator) -> Drawn:
    """Draw normal kernels; biases start at zero.

    A tied kernel serves both directions, so its variance is ``gain / mean(fan_in, fan_out)``:
    Glorot's (2010), with He's (2015) gain of 2 for the rectifiers. ``fan_in`` counts the inputs
    of one hidden unit, ``fan_out`` the hidden units that one input reaches on average.
    """
    geometry = layer.geometry
    elements = prod(geometry.kernel)
    fan_in = layer.input_shape[0] // geometry.groups * elements
    fan_out = float(layer.spec.filters // geometry.groups * elements)
    fan_out *= prod(geometry.output) / prod(geometry.size)
    deviation = sqrt(layer.hidden_activation.gain / ((fan_in + fan_out) / 2))
    return {
        name: rng.normal(0, deviation, shape) if name.endswith("kernel") else np.zeros(shape)
        for name, shape in layer.shapes.items()
    }


def orthogonal(layer: TiedConvolution, rng: np.random.Generator) -> Drawn:
    """Draw kernels whose filters, as far as they can be, are orthogonal; of `he`'s variance."""
    drawn = he(layer, rng)
    filters, groups = layer.spec.filters, layer.geometry.groups
    for name, K in drawn.items():
        if not name.endswith("kernel"):
            continue
        tile = K.shape[1 : -1 - layer.geometry.axes]
        rows = K.reshape(groups, filters // groups, prod(tile), -1).swapaxes(1, 2)
        U, _, V = np.linalg.svd(rows, full_matrices=False)
        flat = U @ V
        flat *= sqrt((rows**2).mean() / (flat**2).mean())
        drawn[name] = flat.swapaxes(1, 2).reshape(K.shape)
    return drawn


@dataclass(frozen=True)
class Output:
    """What stands between an image x and its output before f_out: ``scale * x + shift``.

    Parameters
    ----------
    scale : float
        s.
    shift : (C,) ndarray or float
        t, for each channel.
    """

    scale: float = 1.0
    shift: Any = 0.0


def fit_output(f: Activation, R: np.ndarray[Any, Any], x: np.ndarray[Any, Any]) -> Output:
    """Fit s and t to make ``f(s R + t)`` close to x in the mean square; R, x (N, C, *size)."""
    from scipy.optimize import least_squares

    C = x.shape[1]
    rows, goals = (np.moveaxis(a, 1, 0).reshape(C, -1).astype(np.float64) for a in (R, x))
    z = np.linspace(-6, 6, 1001)
    values = z.copy()
    f.function(np, values)
    low, high = values[0], values[-1]
    inverse = np.interp(goals.clip(*np.quantile([low, high], [0.1, 0.9])), values, z)
    centred = rows - rows.mean()
    spread = (centred**2).sum()
    scale = (centred * inverse).sum() / spread if spread > 0 else 1.0
    first = np.array([scale, *(inverse - scale * rows).mean(axis=1)])

    def residuals(t: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        A = t[0] * rows + t[1:, None]
        f.function(np, A)
        difference: np.ndarray[Any, Any] = A - goals
        return difference.ravel()

    s, *t = least_squares(residuals, first, max_nfev=50).x
    if not np.isfinite([s, *t]).all() or s <= 0:
        s, *t = first
    return Output(float(s) if s > 0 else 1.0, np.array(t))


@dataclass(frozen=True)
class Signal:
    """The numbers that channels stand for: channels themselves, or differences of pairs of them.

    Parameters
    ----------
    plus, minus : (P,) ndarray of int
        For each number the channel to be added, and the one to be subtracted, or -1 for none.
    gain : float
        The number's size, over that of the activation's argument.
    """

    plus: np.ndarray[Any, Any]
    minus: np.ndarray[Any, Any]
    gain: float

    @classmethod
    def of_code(cls, filters: int, groups: int, available: int, f: Activation) -> Signal:
        """Lay out the code of a layer; `available` is the length of the patch that it encodes.

        Pairs lie side by side, so that the next layer's groups do not part them.
        """
        gain, is_paired = _pairing(f)
        each = filters // groups
        if not is_paired:
            plus = np.arange(filters)
            return cls(plus, np.full_like(plus, -1), gain)
        directions = each // 2 if each // 2 >= available else -(-each // 2)
        first = np.arange(groups)[:, None] * each
        plus = (first + 2 * np.arange(directions)).ravel()
        minus = plus + 1
        minus[(plus % each) + 1 >= each] = -1  # an odd filter: half of a pair
        return cls(plus, minus, gain)

    @classmethod
    def raw(cls, channels: int, gain: float = 1.0) -> Signal:
        """Take the channels as they are."""
        plus = np.arange(channels)
        return cls(plus, np.full_like(plus, -1), gain)

    def read(self, H: Any) -> Any:
        """Compute the numbers: H (N, C, *size) -> (N, P, *size)."""
        paired = self.minus >= 0
        S = H[:, self.plus]
        S[:, paired] -= H[:, self.minus[paired]]
        return S

    def spread(self, S: Floats, channels: int, axis: int = 0) -> Floats:
        """Transpose `read`, on any axis: P numbers -> so many channels."""
        moved = np.moveaxis(S, axis, 0)
        spread = np.zeros((channels, *moved.shape[1:]))
        paired = self.minus >= 0
        spread[self.plus] = moved
        spread[self.minus[paired]] = -moved[paired]
        return np.moveaxis(spread, 0, axis)


def _pairing(f: Activation) -> tuple[float, bool]:
    """Measure ``(f(z) - f(-z)) / z`` where it is constant, as it is for rectifiers; else f'(0)."""
    z = np.linspace(0.1, 8, 80)
    up, down, near = z.copy(), -z, np.array([-1e-4, 1e-4])
    for values in (up, down, near):
        f.function(np, values)
    ratio = (up - down) / z
    is_linear = np.allclose(up, z) and np.allclose(down, -z)
    if not is_linear and np.ptp(ratio) < 1e-9 and ratio[0] > 0:
        return float(ratio[0]), True
    slope = float(near[1] - near[0]) / 2e-4
    return slope if slope > 0 else 1.0, False


def _set(layer: TiedConvolution, drawn: Drawn) -> None:
    """Overwrite a layer's live parameters."""
    for name, values in drawn.items():
        array = layer.parameters[name]
        array[...] = layer.backend.xp.asarray(values)


def _walk(
    model: Autoencoder, images: Array, basis: Basis, rng: np.random.Generator, output: Output
) -> None:
    """Start the layers one after the other, from the image upwards, each on the codes below it."""
    H = to_numpy(images)
    signal = Signal.raw(model.input_shape[0], 1 / output.scale)
    for index, layer in enumerate(model.layers):
        shift = output.shift if index == 0 else 0.0
        signal, H = _start(layer, H, signal, shift, basis, rng)


def _start(
    layer: TiedConvolution,
    H: np.ndarray[Any, Any],
    below: Signal,
    shift: Any,
    basis: Basis,
    rng: np.random.Generator,
) -> tuple[Signal, np.ndarray[Any, Any]]:
    """Start one layer on its input H (N, C, *size); returns the signal and array of its code."""
    geometry, channels = layer.geometry, layer.input_shape[0]
    if len(below.plus) % geometry.groups or (
        geometry.groups > 1 and (channels // geometry.groups) % 2 and (below.minus >= 0).any()
    ):
        below = Signal.raw(channels)  # its groups would part the pairs
    V = below.read(H)
    M = V.mean(axis=0, dtype=np.float64)
    m = _bearable_mean(layer, M)
    chosen = frames.taps(geometry)
    length = len(below.plus) // geometry.groups * prod(map(len, chosen))
    code = Signal.of_code(layer.spec.filters, geometry.groups, length, layer.hidden_activation)
    centred = V - _inside(m, geometry).astype(V.dtype)
    K = _filters(centred, geometry, chosen, len(code.plus), basis, rng)
    K /= sqrt(below.gain * code.gain)
    drawn = {"kernel": _kernel(K, layer, below, code)}
    drawn["decoder_kernel"] = drawn["kernel"]
    drawn["hidden_bias"] = drawn["visible_bias"] = np.zeros(())
    if "hidden_bias" in layer.shapes:
        b = code.spread(-_encoded(K, m, geometry), layer.spec.filters)
        idle = np.setdiff1d(np.arange(layer.spec.filters), [*code.plus, *code.minus])
        b[idle] = IDLE_BIAS
        drawn["hidden_bias"] = _shared(b, layer.shapes["hidden_bias"])
    _set(layer, {name: drawn[name] for name in layer.shapes})
    codes, reconstructed = _pass(layer, H)
    if "visible_bias" in layer.shapes:
        goal = below.spread(M / below.gain, channels)
        goal += np.reshape(shift, (-1, *(1 for _ in geometry.size)))
        a = _shared(goal - reconstructed, layer.shapes["visible_bias"])
        _set(layer, {"visible_bias": a})
    return code, codes


def _bearable_mean(layer: TiedConvolution, M: Floats) -> Floats:
    """Average the mean signal M (C, *size) over positions until both biases can hold it.

    Returns it with the layer's padding, (C, *padded size): as it goes on there if it is periodic,
    and with zeros if it has a value for each position.
    """
    geometry = layer.geometry
    hidden, visible = (layer.shapes.get(f"{side}_bias") for side in ("hidden", "visible"))
    periods = []
    for axis, size in enumerate(geometry.size):
        by_hidden = by_visible = 1
        if geometry.output[axis] == 1:
            by_hidden = size
        elif hidden is not None and len(hidden) > 1:
            tile = hidden[1 + axis]
            by_hidden = size if tile == geometry.output[axis] else tile * geometry.stride[axis]
        if visible is not None and len(visible) > 1:
            by_visible = visible[1 + axis]
        both = [tile for tile in (by_hidden, by_visible) if tile < size]
        periods.append(gcd(*both) if both else size)
    if hidden is None or visible is None:
        M = np.zeros_like(M)
    m = _shared(M, (len(M), *periods))
    for axis, (size, period, sides) in enumerate(
        zip(geometry.size, periods, geometry.padding, strict=True), start=1
    ):
        if period < size:
            m = m.take(np.arange(-sides[0], size + sides[1]) % period, axis=axis)
        else:
            m = np.pad(m, [sides if n == axis else (0, 0) for n in range(m.ndim)])
    return m


def _inside(padded: Floats, geometry: Geometry) -> Floats:
    """Leave the padding out."""
    inside = (
        slice(before, before + size)
        for size, (before, _) in zip(geometry.size, geometry.padding, strict=True)
    )
    return padded[(slice(None), *inside)]


def _shared(values: Floats, shape: tuple[int, ...]) -> Floats:
    """Average (C, *positions) over the positions that share a bias of a shape."""
    total, count = (
        biases.bias_gradient(NUMPY, array[None], shape) for array in (values, np.ones_like(values))
    )
    mean: Floats = total / count
    return mean


NUMPY_MODES: dict[str, Any] = {
    "zeros": "constant",
    "reflect": "reflect",
    "replicate": "edge",
    "circular": "wrap",
}
"""What NumPy calls the modes of padding."""


def _filters(
    V: np.ndarray[Any, Any],
    geometry: Geometry,
    chosen: tuple[list[int], ...],
    count: int,
    basis: Basis,
    rng: np.random.Generator,
) -> Floats:
    """Make tight kernels of signals V (N, C, *size): (count, *tile, C / groups, *kernel)."""
    groups = geometry.groups
    each, channels = count // groups, V.shape[1] // groups
    K = np.zeros((count, *geometry.tile, channels, *geometry.kernel))
    edges = ((0, 0), (0, 0), *geometry.padding)
    for group in range(groups):
        mine = slice(group * channels, (group + 1) * channels)
        moments = {
            place: Moments(channels * prod(map(len, chosen)))
            for place in np.ndindex(*geometry.tile)
        }
        for start in range(0, len(V), BATCH):
            some = np.pad(V[start : start + BATCH, mine], edges, NUMPY_MODES[geometry.padding_mode])
            columns = frames.patches(some, geometry, chosen)  # (N, C, taps, *output)
            for place, found in moments.items():
                where = (slice(j, None, t) for j, t in zip(place, geometry.tile, strict=True))
                rows = np.moveaxis(columns[(..., *where)], (1, 2), (-2, -1))
                found.add(rows.reshape(-1, found.length))
        for place, found in moments.items():
            Q = frames.frame(found, each, basis, rng)
            K[(slice(group * each, (group + 1) * each), *place)] = frames.embedded(
                Q, geometry, chosen
            )
    return K


def _kernel(K: Floats, layer: TiedConvolution, below: Signal, code: Signal) -> Floats:
    """Let a kernel on signals (P, *tile, C, *kernel) read the channels and fill the filters."""
    groups = layer.geometry.groups
    channels, numbers = layer.input_shape[0] // groups, len(below.plus) // groups
    axis = K.ndim - 1 - layer.geometry.axes
    parts = []
    for group, part in enumerate(np.split(K, groups)):
        mine = slice(group * numbers, (group + 1) * numbers)
        minus = below.minus[mine]
        own = Signal(
            below.plus[mine] - group * channels,
            np.where(minus < 0, -1, minus - group * channels),
            below.gain,
        )
        parts.append(own.spread(part, channels, axis))
    return code.spread(np.concatenate(parts), layer.spec.filters).reshape(layer.shapes["kernel"])


def _encoded(K: Floats, m: Floats, geometry: Geometry) -> Floats:
    """Convolve a mean signal with its padding (C, *padded size): -> (P, *output)."""
    inner = replace(
        geometry, size=m.shape[1:], padding=((0, 0),) * geometry.axes, padding_mode="zeros"
    )
    Z: Floats = NUMPY.c(K, m[None], inner)[0]
    return Z


def _pass(layer: TiedConvolution, H: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], Floats]:
    """Encode H (N, C, *size), and average what is decoded, before f_out: (C, *size)."""
    backend = layer.backend
    codes = np.empty((len(H), *layer.output_shape), H.dtype)
    total = np.zeros(layer.input_shape)
    for start in range(0, len(H), BATCH):
        some = slice(start, start + BATCH)
        code, _ = layer.encode(backend.arrange(backend.xp.asarray(H[some])))
        codes[some] = to_numpy(code)
        total += to_numpy(layer.decode(code, activate=False)[0].sum(axis=0, dtype="float64"))
    return codes, total / len(H)
