"""Initial parameters: drawn at random, or tight frames that start a deep autoencoder as PCA.

An output activation is met half-way: ``f_out(s R + t)``, with s and t fitted to the images, starts
where the reconstruction R does.
"""

from __future__ import annotations

from math import prod, sqrt
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from convae.configuration import INITIALISATIONS
from convae.engine import Array, Backend, biases, to_numpy
from convae.errors import UserError, check_choice, check_range
from convae.models import backpropagation, frames
from convae.models.activations import Activation
from convae.models.checks import check_array
from convae.models.frames import Floats, Moments
from convae.models.layers import TiedConvolution
from convae.models.tight_start import Output, set_parameters, start_layers

if TYPE_CHECKING:
    from convae.models.coder import Coder

Drawn: TypeAlias = dict[str, np.ndarray[Any, Any]]

FROM_DATA = ("pca", "parseval")

FIT_VALUES = 200_000
"""Values, at most, to which an output activation is fitted."""


def initialise(
    model: Coder,
    method: str = "pca",
    images: Array | None = None,
    seed: int | None = None,
) -> None:
    """Give a model new initial parameters.

    Parameters
    ----------
    model : Coder
        Its parameters are overwritten.
    method : {"pca", "parseval", "orthogonal", "he"}
        "pca": tight frames of the images' own leading directions, layer by layer; a stack whose
        uppermost kernel is as large as its input starts as PCA. "parseval": the same with random
        directions. "orthogonal": random kernels with orthogonal rows (Saxe et al. 2014), "he":
        normal ones (He et al. 2015), both of Glorot's mean variance, with biases of zero.
    images : (N, C, *size) ndarray, optional
        Training images, of the model's dtype; for "pca" and "parseval", which need them. Some
        thousands are enough. Of large ones, lower layers use only the first: put them in any order
        but that of their classes.
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
    check_choice("method", method, INITIALISATIONS)
    seed = model.seed if seed is None else seed
    check_range("seed", seed, at_least=0, integer=True)
    rng = np.random.default_rng(seed)
    if method not in FROM_DATA:
        draw = he if method == "he" else orthogonal
        for layer in model.layers:
            set_parameters(layer, draw(layer, rng))
        return
    if any(layer.pooling is not None for layer in model.layers):
        raise UserError(
            f"init: {method!r} is for layers without pooling, which loses what it would keep; "
            "choose orthogonal or he"
        )
    if images is None:
        raise UserError(f"images: none given, but method {method!r} starts from training images")
    images = check_array(
        "images", images, model.input_shape, model.dtype, model.backend, at_least=1
    )
    if not bool(model.xp.isfinite(images).all()):
        raise UserError("images: some values are not finite; leave these images out")

    def basis(moments: Moments, count: int) -> Floats:
        if method == "pca":
            return moments.leading(count)
        return frames.random_directions(moments.length, count, rng)

    f_out = model.output_activation
    start_layers(model, images, basis, rng, Output())
    if f_out.name != "identity":
        some = images[:: -(-images.size // FIT_VALUES)]
        R = backpropagation.decode(model.layers, model.encode(some), activate=False)
        start_layers(model, images, basis, rng, fit_output(f_out, to_numpy(R), to_numpy(some)))


def mean_of(backend: Backend, images: Array, shape: tuple[int, ...]) -> Array:
    """Average images (N, C, *size) over all that shares a visible bias of a shape."""
    total = biases.bias_gradient(backend, images, shape)
    count = biases.bias_gradient(backend, backend.xp.ones_like(images[:1]), shape)
    return total / (count * len(images))


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
