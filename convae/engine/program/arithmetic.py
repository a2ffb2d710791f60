"""What the operations of programs compute, in array code: the portable way, and the reference.

Every function takes a backend and the arrays by their roles, and fills the arrays that it writes.
Batches are examples first, channels last, ``(N, *size, C)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from convae.engine import biases, edges
from convae.engine.arrays import Array
from convae.engine.backend import Backend, Elementwise, channels_second, filters_first
from convae.engine.geometry import Geometry
from convae.engine.program.nodes import Problem

Arrays: TypeAlias = Mapping[str, Array]
Run: TypeAlias = Callable[[], None]


class Portable:
    """The way that suits every problem: array code, on a backend that computes c, h and g."""

    name, tensor_cores = "portable", False

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def suits(self, problem: Problem) -> bool:
        """Tell whether it can compute a problem."""
        return True

    def records(self, problem: Problem) -> bool:
        """Tell whether a CUDA graph can record it: CuPy refuses cuBLAS's matrix products."""
        return problem.operation not in PRODUCTS

    def build(self, problem: Problem, arrays: Arrays) -> Run:
        """Return what computes a problem on these arrays."""
        function, settings = OPERATIONS[problem.operation], dict(problem.settings)
        return lambda: function(self.backend, **arrays, **settings)


def c(backend: Backend, K: Array, V: Array, Z: Array, geometry: Geometry, **behind: Any) -> None:
    """Compute ``Z = c(K, V)``, and what is `behind` it, as `finish` says."""
    result = edges.c(backend, first(K, geometry), channels_second(V), geometry)
    finish(backend, result, Z, geometry.output, **behind)


def h(backend: Backend, K: Array, G: Array, V: Array, geometry: Geometry, **behind: Any) -> None:
    """Compute ``V = h(K, G)``, and what is `behind` it, as `finish` says."""
    result = edges.h(backend, first(K, geometry), channels_second(G), geometry)
    finish(backend, result, V, geometry.size, **behind)


def finish(
    backend: Backend,
    result: Array,
    out: Array,
    size: tuple[int, ...],
    bias: Array | None = None,
    activation: Elementwise | None = None,
    extra: Array | None = None,
    H: Array | None = None,
    slope: Elementwise | None = None,
) -> None:
    """Write ``activation(result + bias)``, or ``(result + extra) * slope'`` where H = slope(Z)."""
    if activation is not None:
        if bias is not None:
            bias = biases.spread(bias.astype(result.dtype, copy=False), size)
        backend.activate(result, bias, activation)
    if extra is not None:
        result += channels_second(extra).astype(result.dtype, copy=False)
    if slope is not None:
        result = backend.activation_gradient(result, channels_second(H), slope)
    channels_second(out)[...] = result


def error(
    backend: Backend,
    K: Array,
    G: Array,
    target: Array,
    E: Array,
    J: Array,
    geometry: Geometry,
    activation: Elementwise,
    loss: Any,
    count: int,
    bias: Array | None = None,
    scale: int = 1,
) -> None:
    """Reconstruct, ``R = f_out(h(K, G) + bias)``, and compare: J, and E times `scale`."""
    A = edges.h(backend, first(K, geometry), channels_second(G), geometry)
    A = A.astype(target.dtype, copy=False)
    if bias is not None:
        spread: Array = biases.spread(bias.astype(A.dtype, copy=False), geometry.size)
        A += spread.reshape(-1, *(1 for _ in geometry.size)) if spread.ndim == 1 else spread
    if not loss.of_logits:
        backend.activate(A, None, activation)
    value, dA = loss(backend, A, channels_second(target), activation, count)
    J[...] = value
    channels_second(E)[...] = dA if scale == 1 else dA * scale


def g(
    backend: Backend, G: Array, V: Array, dK: Array, geometry: Geometry, scale: float = 1
) -> None:
    """Compute ``dK = scale * g(G, V)``."""
    shape = first(dK, geometry).shape
    result = edges.g(backend, channels_second(G), channels_second(V), shape, geometry)
    first(dK, geometry)[...] = result if scale == 1 else result * scale


def pool(backend: Backend, F: Array, P: Array, switches: Array, window: tuple[int, ...]) -> None:
    """Write the largest of each window to P, and which it is to `switches`, as whole numbers."""
    values, numbers = backend.pool(channels_second(F), window)
    channels_second(P)[...] = values
    channels_second(switches)[...] = numbers


def take(
    backend: Backend,
    F: Array,
    switches: Array,
    P: Array,
    window: tuple[int, ...],
    **behind: Any,
) -> None:
    """Write what the switches point at to P, and what is `behind` it, as `finish` says."""
    result = backend.take(channels_second(F), channels_second(switches), window)
    finish(backend, result, P, P.shape[1:-1], **behind)


def unpool(backend: Backend, P: Array, switches: Array, F: Array, window: tuple[int, ...]) -> None:
    """Put P where the switches point, and zeros elsewhere."""
    channels_second(F)[...] = backend.unpool(channels_second(P), channels_second(switches), window)


def bias_gradient(backend: Backend, G: Array, db: Array, scale: float = 1) -> None:
    """Sum over the examples and the positions that share a bias: ``(C,)`` or ``(C, *tile)``."""
    result = biases.bias_gradient(backend, channels_second(G), db.shape)
    db[...] = result if scale == 1 else result * scale


def mean_activation(backend: Backend, H: Array, mean: Array) -> None:
    """Average each filter over examples and positions, off 0 and 1 by a rounding error."""
    epsilon = backend.xp.finfo(H.dtype).eps
    mean[...] = backend.xp.clip(H.mean(axis=tuple(range(H.ndim - 1))), epsilon, 1 - epsilon)


def code_penalty(
    backend: Backend,
    H: Array,
    extra: Array,
    J: Array,
    penalty: Any,
    count: int,
    mean: Array | None = None,
) -> None:
    """Add the penalty of the code H to J, and write its gradient to `extra`.

    It is a mean over `count` elements, of H or a batch of which H is a part.
    """
    value, dH = penalty.of_code(channels_second(H), mean, count)
    J += value if mean is None else value + penalty.divergence(mean)
    channels_second(extra)[...] = dH


def square(backend: Backend, K: Array, squares: Array) -> None:
    """Square every element."""
    backend.xp.square(K, out=squares)


def squared_slopes(backend: Backend, H: Array, squares: Array, f: Elementwise) -> None:
    """Sum f'(Z)^2 over the examples: H (N, *output, O) -> (1, *output, O)."""
    xp = backend.xp
    slopes = xp.ones_like(H) if f.derivative is None else f.derivative(xp, H).astype(H.dtype)
    squares[...] = xp.square(slopes).sum(axis=0, keepdims=True)


def contraction(
    backend: Backend,
    squares: Array,
    W: Array,
    K: Array,
    slopes: Array,
    dK: Array,
    J: Array,
    strength: float,
) -> None:
    """Add the squared norm of a layer's Jacobian to J, and its gradient in K to dK.

    It is ``strength * sum(squares * W)`` with ``W = c(K*K, 1)`` and ``slopes = g(squares, 1)``.
    """
    J += strength * (squares * W).sum(dtype="float64")
    dK += (2 * strength) * K * slopes


def contraction_code(
    backend: Backend, H: Array, W: Array, extra: Array, f: Any, strength: float
) -> None:
    """Add the same norm's gradient in Z, before f' is multiplied, to `extra`."""
    extra += (2 * strength) * f.curvature(backend.xp, H) * W


def convert(backend: Backend, array: Array, out: Array) -> None:
    """Copy an array into one of another type."""
    out[...] = array


def clear(backend: Backend, out: Array) -> None:
    """Fill an array with zeros."""
    out[...] = 0


def kernel_decay(backend: Backend, K: Array, dK: Array, J: Array, strength: float) -> None:
    """Add ``strength * sum(K^2) / 2`` to J, and its gradient to dK."""
    J += (strength / 2) * backend.xp.square(K).sum(dtype="float64")
    dK += strength * K


def energy(backend: Backend, gradients: Array, energy: Array) -> None:
    """Sum the squares of all gradients."""
    energy[...] = backend.xp.square(gradients, dtype="float64").sum()


def update(
    backend: Backend,
    parameters: Array,
    gradients: Array,
    energy: Array,
    J: Array,
    numbers: Array,
    method: Callable[..., None],
    clip: float | None = None,
    average: Array | None = None,
    **state: Array,
) -> None:
    """Clip the gradients, do one step of `method`, and follow it with the average.

    Gradients that are not finite count as zeros. The last of the numbers is the average's rate.
    """
    xp = backend.xp
    factor = xp.isfinite(energy + J).astype(gradients.dtype)
    if clip is not None:
        factor = factor * (clip / xp.maximum(xp.sqrt(energy), clip)).astype(gradients.dtype)
    clipped = xp.where(factor > 0, gradients * factor, 0).astype(gradients.dtype, copy=False)
    method(backend, parameters, clipped, numbers.astype(parameters.dtype), **state)
    if average is not None:
        average += numbers[-1].astype(average.dtype) * (parameters - average)


PRODUCTS: dict[str, Callable[..., None]] = {"c": c, "h": h, "g": g, "error": error}
"""The operations with matrix products in them."""

PASSES: tuple[Callable[..., None], ...] = (
    pool,
    take,
    unpool,
    bias_gradient,
    mean_activation,
    code_penalty,
    square,
    squared_slopes,
    contraction,
    contraction_code,
    convert,
    clear,
    kernel_decay,
    energy,
    update,
)

OPERATIONS = PRODUCTS | {function.__name__: function for function in PASSES}
"""All operations by name."""


def first(K: Array, geometry: Geometry) -> Array:
    """View a kernel's memory with the filters first."""
    return filters_first(K, geometry.axes)
