"""A stack of layers started as tight frames, one after the other, from the image upwards.

A rectifier loses half of what it is given. But two filters of opposite sign lose nothing,

    relu(z) - relu(-z) = z,

so a tied layer with the kernels [Q; -Q] is inverted by its own transpose where Q is a tight frame
(`convae.models.frames`): ``h(K, relu(c(K, V))) = V``. A layer above acts on the *signal*, which is
the difference of such pairs (`convae.models.signals`), in the same way. A stack starts as the
composition of its layers' projections; with a code as large as the image that is the identity, and
with a smaller one, whose kernel is as large as its input, it is PCA.

With a signal's mean m and the factors g_b and g that the activations of input and code put on
signals (1 for pairs of rectifiers, the slope at 0 elsewhere), a layer is

    K = Q / sqrt(g_b g),    b = -c(K, m),    a = mean of V / g_b - mean of h(K, H).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import gcd, prod, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from convae.engine import Array, ArrayBackend, biases, edges, gemm, to_numpy
from convae.engine.geometry import Geometry
from convae.models import frames
from convae.models.frames import Basis, Floats, Moments
from convae.models.layers import TiedConvolution
from convae.models.signals import Signal

if TYPE_CHECKING:
    from convae.models.coder import Coder

BATCH, BATCH_NUMBERS = 256, 2**24
"""Images that pass through a layer at a time, and numbers in their codes, at most."""

NUMBERS, FEWEST = 2**26, 50
"""Numbers on which a layer's kernels are based, about, and the fewest images."""

IDLE_BIAS = 0.1
"""Hidden bias of filters that start with a kernel of zeros, so that gradients reach them."""

NUMPY = ArrayBackend()


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


def set_parameters(layer: TiedConvolution, drawn: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Overwrite a layer's live parameters."""
    for name, values in drawn.items():
        array = layer.parameters[name]
        array[...] = layer.backend.xp.asarray(values)


@dataclass(frozen=True)
class Inputs:
    """What a layer is given: images, through the layers below it, in batches.

    Parameters
    ----------
    images : (N, C, *size) ndarray
        The images, on the model's device.
    below : sequence of TiedConvolution
        The layers, which have started.
    numbers : int
        Numbers in one of the layer's inputs.
    """

    images: Array
    below: Sequence[TiedConvolution]
    numbers: int

    def batches(self) -> Iterator[np.ndarray[Any, Any]]:
        """Iterate over (N, C, *size), of as many images as memory is meant for."""
        count = min(len(self.images), max(NUMBERS // self.numbers, FEWEST))
        largest = max([self.numbers, *(prod(layer.output_shape) for layer in self.below)])
        size = max(1, min(BATCH, BATCH_NUMBERS // largest))
        for first in range(0, count, size):
            H = self.images[first : min(first + size, count)]
            for layer in self.below:
                H, _ = layer.encode(layer.backend.arrange(H))
            yield to_numpy(H)


def start_layers(
    model: Coder, images: Array, basis: Basis, rng: np.random.Generator, output: Output
) -> None:
    """Start the layers one after the other, from the image upwards, each on the codes below it."""
    signal = Signal.raw(model.input_shape[0], 1 / output.scale)
    for index, layer in enumerate(model.layers):
        inputs = Inputs(images, model.layers[:index], prod(layer.input_shape))
        signal = _start(layer, inputs, signal, output.shift if index == 0 else 0.0, basis, rng)


def _start(
    layer: TiedConvolution,
    inputs: Inputs,
    below: Signal,
    shift: Any,
    basis: Basis,
    rng: np.random.Generator,
) -> Signal:
    """Start one layer on its inputs, given the signal in them; returns the signal in its code."""
    geometry, channels = layer.geometry, layer.input_shape[0]
    if len(below.plus) % geometry.groups or (
        geometry.groups > 1 and (channels // geometry.groups) % 2 and (below.minus >= 0).any()
    ):
        below = Signal.raw(channels)  # its groups would part the pairs
    V = np.concatenate([below.read(H) for H in inputs.batches()])
    M = V.mean(axis=0, dtype=np.float64)
    m = _bearable_mean(layer, M)
    V -= m[gemm.inside(geometry)].astype(V.dtype)
    chosen = frames.taps(geometry)
    length = len(below.plus) // geometry.groups * prod(map(len, chosen))
    code = Signal.of_code(layer.spec.filters, geometry.groups, length, layer.hidden_activation)
    K = _filters(V, geometry, chosen, len(code.plus), basis, rng)
    K /= sqrt(below.gain * code.gain)
    drawn = {"kernel": _kernel(K, layer, below, code)}
    drawn["decoder_kernel"] = drawn["kernel"]
    drawn["hidden_bias"] = drawn["visible_bias"] = np.zeros(())
    if "hidden_bias" in layer.shapes:
        b = code.spread(-_encoded(K, m, geometry), layer.spec.filters)
        idle = np.setdiff1d(np.arange(layer.spec.filters), [*code.plus, *code.minus])
        b[idle] = IDLE_BIAS
        drawn["hidden_bias"] = _shared(b, layer.shapes["hidden_bias"])
    set_parameters(layer, {name: drawn[name] for name in layer.shapes})
    if "visible_bias" in layer.shapes:
        goal = below.spread(M / below.gain, channels)
        goal += np.reshape(shift, (-1, *(1 for _ in geometry.size)))
        a = _shared(goal - _mean_decoded(layer, inputs), layer.shapes["visible_bias"])
        set_parameters(layer, {"visible_bias": a})
    return code


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


def _shared(values: Floats, shape: tuple[int, ...]) -> Floats:
    """Average (C, *positions) over the positions that share a bias of a shape."""
    total, count = (
        biases.bias_gradient(NUMPY, array[None], shape) for array in (values, np.ones_like(values))
    )
    mean: Floats = total / count
    return mean


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
    for group in range(groups):
        mine = slice(group * channels, (group + 1) * channels)
        moments = {
            place: Moments(channels * prod(map(len, chosen)))
            for place in np.ndindex(*geometry.tile)
        }
        for start in range(0, len(V), BATCH):
            some = V[start : start + BATCH, mine]
            if geometry.padding_mode == "zeros":
                some = np.pad(some, ((0, 0), (0, 0), *geometry.padding))
            else:
                some = edges.extend(some, geometry)
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


def _mean_decoded(layer: TiedConvolution, inputs: Inputs) -> Floats:
    """Average what a layer decodes, before f_out: (C, *size)."""
    backend, count = layer.backend, 0
    total = np.zeros(layer.input_shape)
    for H in inputs.batches():
        code, _ = layer.encode(backend.arrange(backend.xp.asarray(H)))
        A, _ = layer.decode(code, activate=False)
        total += to_numpy(A.sum(axis=0, dtype="float64"))
        count += len(H)
    return total / count
