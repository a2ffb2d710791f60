"""The NumPy backend: chooses an algorithm for each problem and splits the batch among threads.

Shared kernels without dilation or groups, on batches of whole blocks of examples, are computed by
`direct`, or by `winograd` where many channels make it faster; everything else by the matrix
products of `convae.engine.gemm` on chunks of the batch. Partial sums are added in chunk order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache, partial
from math import prod
from types import ModuleType
from typing import Any, TypeVar

import numpy as np

from convae.engine import gemm
from convae.engine.arrays import Array
from convae.engine.backend import ArrayBackend, Elementwise, examples_first, examples_last
from convae.engine.cpu import threads
from convae.engine.cpu.threads import BLOCK_BYTES, LARGEST_CHUNK
from convae.engine.geometry import Geometry

Result = TypeVar("Result")

COLUMNS_BYTES = 32 << 20
"""Memory limit for the columns of a chunk; smaller chunks were measured to be slower."""


class NumpyBackend(ArrayBackend):
    """c, h and g on NumPy arrays, and compiled elementwise passes over their results."""

    def c(self, K: Array, V: Array, geometry: Geometry) -> Array:
        """See `convae.engine.backend.Backend`."""
        V = examples_last(V)
        compiled = compiled_operation(
            "c", geometry, V.shape[0], K.shape[0], V.shape[-1], V.itemsize
        )
        if compiled is not None:
            return examples_first(compiled(K, V, geometry))
        chunks = column_chunks(geometry, V.shape[0], V.itemsize, V.shape[-1])
        if len(chunks) == 1:
            return examples_first(gemm.c(np, K, V, geometry, threads.scratch))
        Z = np.empty((K.shape[0], *geometry.output, V.shape[-1]), V.dtype)

        def compute(chunk: slice) -> None:
            Z[..., chunk] = gemm.c(np, K, V[..., chunk], geometry, threads.scratch)

        self.map(compute, chunks)
        return examples_first(Z)

    def h(self, K: Array, G: Array, geometry: Geometry) -> Array:
        """See `convae.engine.backend.Backend`."""
        G = examples_last(G)
        C = K.shape[-geometry.axes - 1] * geometry.groups
        compiled = compiled_operation("h", geometry, C, K.shape[0], G.shape[-1], G.itemsize)
        if compiled is not None:
            return examples_first(compiled(K, G, geometry))
        chunks = column_chunks(geometry, C, G.itemsize, G.shape[-1])
        if len(chunks) == 1:
            return examples_first(gemm.h(np, K, G, geometry, threads.scratch))
        V = np.empty((C, *geometry.size, G.shape[-1]), G.dtype)

        def compute(chunk: slice) -> None:
            V[..., chunk] = gemm.h(np, K, G[..., chunk], geometry, threads.scratch)

        self.map(compute, chunks)
        return examples_first(V)

    def g(self, G: Array, V: Array, K_shape: tuple[int, ...], geometry: Geometry) -> Array:
        """See `convae.engine.backend.Backend`."""
        G, V = examples_last(G), examples_last(V)
        compiled = compiled_operation(
            "g", geometry, V.shape[0], G.shape[0], V.shape[-1], V.itemsize
        )
        if compiled is not None:
            return compiled(G, V, K_shape, geometry)

        def compute(chunk: slice) -> Array:
            return gemm.g(np, G[..., chunk], V[..., chunk], K_shape, geometry, threads.scratch)

        chunks = column_chunks(geometry, V.shape[0], V.itemsize, V.shape[-1])
        dK, *others = self.map(compute, chunks)
        for other in others:
            dK += other
        return dK

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
        return threads.map_chunks(function, chunks)


def column_chunks(geometry: Geometry, channels: int, itemsize: int, examples: int) -> list[slice]:
    """Split a batch so that the columns of each chunk fit into `COLUMNS_BYTES`."""
    per_example = channels * prod(geometry.kernel) * prod(geometry.extended) * itemsize
    return threads.cut(examples, min(max(COLUMNS_BYTES // per_example, 1), LARGEST_CHUNK))


@lru_cache(maxsize=1024)
def compiled_operation(
    operation: str, geometry: Geometry, channels: int, filters: int, examples: int, itemsize: int
) -> Callable[..., Array] | None:
    """Return the compiled c, h or g for a problem, or None if only `gemm` supports it."""
    blocks, rest = divmod(examples * itemsize, BLOCK_BYTES)
    if rest or geometry.groups != 1 or {*geometry.tile, *geometry.dilation} != {1}:
        return None
    from convae.engine.cpu import direct, winograd  # deferred: importing Numba is slow

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
    for array in arrays:
        if not isinstance(array, np.ndarray) or array.ndim < 3 or array.itemsize < 4:
            return None
        memory = array.transpose(*range(2, array.ndim), 1, 0)
        if not memory.flags.c_contiguous:
            return None
        views.append(memory.reshape(-1, array.shape[1], array.shape[0]))
    return views
