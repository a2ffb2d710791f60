"""The NumPy backend: chooses an algorithm for each problem and splits the batch among threads.

Shared kernels without dilation or groups, on batches of whole blocks of examples, are computed by
`direct`, or by `winograd` where many channels make it faster; everything else by `unfolded`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, lru_cache, partial
from types import ModuleType
from typing import Any, TypeVar

import numpy as np

from convae.engine.arrays import Array
from convae.engine.backend import ArrayBackend, Elementwise, examples_first, examples_last
from convae.engine.cpu import threads, unfolded
from convae.engine.cpu.threads import BLOCK_BYTES
from convae.engine.geometry import Geometry

Result = TypeVar("Result")


class NumpyBackend(ArrayBackend):
    """c, h and g on NumPy arrays, and compiled passes over arrays that they returned.

    Parameters
    ----------
    precision : {"fast", "exact"}
        See `convae.engine.precision`.
    """

    def __init__(self, precision: str = "fast") -> None:
        self.precision = precision

    def c(self, K: Array, V: Array, geometry: Geometry) -> Array:
        """See `convae.engine.backend.Backend`."""
        V = examples_last(V)
        compiled = self._compiled("c", geometry, V.shape[0], K.shape[0], V.shape[-1], V.itemsize)
        return examples_first((compiled or unfolded.c)(K, V, geometry))

    def h(self, K: Array, G: Array, geometry: Geometry) -> Array:
        """See `convae.engine.backend.Backend`."""
        G = examples_last(G)
        C = K.shape[-geometry.axes - 1] * geometry.groups
        compiled = self._compiled("h", geometry, C, K.shape[0], G.shape[-1], G.itemsize)
        return examples_first((compiled or unfolded.h)(K, G, geometry))

    def g(self, G: Array, V: Array, K_shape: tuple[int, ...], geometry: Geometry) -> Array:
        """See `convae.engine.backend.Backend`."""
        G, V = examples_last(G), examples_last(V)
        compiled = self._compiled("g", geometry, V.shape[0], G.shape[0], V.shape[-1], V.itemsize)
        return (compiled or unfolded.g)(G, V, K_shape, geometry)

    def _compiled(self, *problem: Any) -> Callable[..., Array] | None:
        return compiled_operation(*problem, self.precision == "exact")

    def activate(self, Z: Array, b: Array | None, f: Elementwise) -> Array:
        """See `convae.engine.backend.Backend`; a single pass over Z if f is piecewise linear."""
        view = rows(Z) if b is not None and b.ndim == 1 else None
        if view is None or b is None:
            return super().activate(Z, b, f)
        compiled_passes().add_bias(*view, b, Z.dtype.type(1 if f.slope is None else f.slope))
        if f.slope is None:
            f.function(np, Z)
        return Z

    def activation_gradient(self, dH: Array, H: Array, f: Elementwise) -> Array:
        """See `convae.engine.backend.Backend`."""
        view = rows(dH, H)
        if f.derivative is None or f.quadratic is None or view is None:
            return super().activation_gradient(dH, H, f)
        flat = (array.reshape(-1) for array in view)
        compiled_passes().times_derivative(*flat, *map(H.dtype.type, f.quadratic))
        return dH

    def squared_error(
        self, R: Array, x: Array, f_out: Elementwise, count: int
    ) -> tuple[Array, Array]:
        """See `convae.engine.backend.Backend`."""
        view = rows(R, x)
        if view is None or f_out.quadratic is None:
            return super().squared_error(R, x, f_out, count)
        E = np.empty_like(R)
        numbers = map(R.dtype.type, (2 / count, *f_out.quadratic))
        J = compiled_passes().squared_error(*(rows(E) or ()), *view, *numbers) / count
        return np.asarray(J), E

    def bias_gradient(self, G: Array, by_position: bool) -> Array:
        """See `convae.engine.backend.Backend`."""
        view = None if by_position else rows(G)
        if view is None:
            return super().bias_gradient(G, by_position)
        return compiled_passes().channel_sums(*view).astype(G.dtype)

    def arrange(self, x: Array) -> Array:
        """See `convae.engine.backend.Backend`; memory order (*size, C, N)."""
        axes = x.ndim - 2
        memory = np.ascontiguousarray(x.transpose(*range(2, x.ndim), 1, 0))
        return memory.transpose(axes + 1, axes, *range(axes))

    def divide(self, examples: int, work: int) -> list[slice]:
        """See `convae.engine.backend.Backend`; independent of the number of threads."""
        return threads.divide(examples, work)

    def map(self, function: Callable[[slice], Result], chunks: list[slice]) -> list[Result]:
        """See `convae.engine.backend.Backend`."""
        return threads.map_tasks(function, chunks)


@cache
def compiles() -> bool:
    """Tell whether Numba may compile; with NUMBA_DISABLE_JIT everything is computed by NumPy."""
    return os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")


@lru_cache(maxsize=1024)
def compiled_operation(
    operation: str,
    geometry: Geometry,
    channels: int,
    filters: int,
    examples: int,
    itemsize: int,
    exact: bool = False,
) -> Callable[..., Array] | None:
    """Return the compiled c, h or g for a problem, or None if only `gemm` supports it."""
    blocks, rest = divmod(examples * itemsize, BLOCK_BYTES)
    if (
        not compiles()
        or rest
        or geometry.groups != 1
        or {*geometry.tile, *geometry.dilation} != {1}
    ):
        return None
    from convae.engine.cpu import direct, winograd  # deferred: importing Numba is slow

    tiling = None
    if not exact:
        tiling = winograd.choose_tiling(operation, geometry, channels, filters, blocks)
    if tiling is None:
        return getattr(direct, operation)  # type: ignore[no-any-return]
    return partial(getattr(winograd, operation), tiling=tiling)


@cache
def compiled_passes() -> ModuleType:
    """Import the compiled elementwise passes on first use."""
    from convae.engine.cpu import pointwise

    return pointwise


def rows(*arrays: Array) -> list[np.ndarray[Any, Any]] | None:
    """View batches in their memory order, that of c's and h's results; None if one has another.

    (N, C, *size) -> (prod(size), C, N)
    """
    views = []
    if not compiles():
        return None
    for array in arrays:
        if not isinstance(array, np.ndarray) or array.ndim < 3 or array.itemsize < 4:
            return None
        memory = array.transpose(*range(2, array.ndim), 1, 0)
        if not memory.flags.c_contiguous:
            return None
        views.append(memory.reshape(-1, array.shape[1], array.shape[0]))
    return views
