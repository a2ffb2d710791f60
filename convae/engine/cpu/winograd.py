"""c, h and g of shared kernels by Winograd's minimal filtering, for many channels.

The output is divided into tiles, the last of which may extend past the edge. Along each axis a
scheme of `toom_cook` transforms the kernel, the input tile and the output tile. In the transform
domain c, h and g are ordinary matrix products, one per point p, and the transposed matrices are the
inverse transforms:

    c:  Z[tile]   = G^T of (K^[p]   @ V^[p]  for every p)
    h:  V'[tile] += V^T of (K^[p]^T @ G^[p])
    g:  dK        = K^T of (sum over tiles of V^[p] @ G^[p]^T)

The compiled loops are in `winograd_loops`.
"""

from __future__ import annotations

from itertools import product
from math import ceil, gcd, prod
from typing import Any

import numpy as np

from convae.engine.arrays import Array
from convae.engine.backend import filters_first
from convae.engine.cpu import direct
from convae.engine.cpu.direct import channels_first, filters_last, flat
from convae.engine.cpu.llvm import ROWS
from convae.engine.cpu.threads import (
    BLOCK_BYTES,
    contiguous,
    empty,
    map_tasks,
    scratch,
    spread,
)
from convae.engine.cpu.toom_cook import possible
from convae.engine.cpu.winograd_loops import PlaneSizes, Tiling, Two, kernel_maps, operations
from convae.engine.geometry import Geometry

TILES = (1, 2, 3, 4)
"""Outputs of a tile along an axis, as far as `toom_cook` has points for them."""

WIDEST = 100
"""Largest ratio of the largest absolute value to the root mean square.

The transforms mix neighbouring positions, so rounding errors of the largest value reach outputs
that do not depend on it. Data with a wider range is computed by `direct`.
"""

LARGEST = 1e15
"""Largest absolute value: transforms and products of larger ones might overflow float32."""

PRODUCTS = 0.9
"""Time of a transform-domain multiply-accumulate relative to `direct`; all three are measured."""

MAPS = {"c": 3.5, "h": 5.5, "g": 6.5}
"""Time of transforming a row and back, per point and output of a tile, in the same unit."""

KERNEL = 0.5
"""Time of transforming a kernel, in transform-domain products."""

WORTH_WHILE = 0.8
"""Maximum fraction of `direct`'s time; smaller gains were lost within a training step."""


def choose_tiling(
    operation: str, geometry: Geometry, channels: int, filters: int, blocks: int
) -> Tiling | None:
    """Choose the tile estimated to be fastest, or None if `direct` is not clearly slower."""
    if geometry.axes == 3:
        return None
    kernel, stride, output = _two(geometry.kernel), _two(geometry.stride), _two(geometry.output)
    best, least = None, WORTH_WHILE * _meetings(geometry)
    for tile in product(TILES, TILES):
        if all(map(possible, kernel, stride, tile)):
            candidate = Tiling(kernel, stride, tile)
            maps = MAPS[operation] * max(tile) * (1 / channels + 1 / filters)
            tiles = prod(ceil(n / m) for n, m in zip(output, tile, strict=True))
            time = (tiles * (PRODUCTS + maps) + KERNEL / blocks) * prod(candidate.points)
            if time < least:
                best, least = candidate, time
    return best


def in_range(*arrays: Array) -> bool:
    """Tell whether values are finite and of comparable size, so that the transforms are safe."""
    for array in arrays:
        values = contiguous_view(array)
        largest = max(float(values.max()), -float(values.min()))
        if not largest <= LARGEST:  # nor is NaN
            return False
        if largest**2 * values.size > WIDEST**2 * float(np.dot(values, values)):
            return False
    return True


def contiguous_view(array: Array) -> Array:
    """Flatten an array that is contiguous in some order of its axes, without copying it."""
    axes = sorted(range(array.ndim), key=lambda axis: -array.strides[axis])
    return contiguous(array.transpose(axes)).reshape(-1)


def _meetings(geometry: Geometry) -> int:
    """Count the pairs of a kernel element and an output position that overlap the input."""
    axes = zip(
        geometry.size,
        geometry.output,
        geometry.kernel,
        geometry.stride,
        geometry.padding,
        strict=True,
    )
    return prod(
        sum(0 <= j * stride + m - before < size for j in range(output) for m in range(kernel))
        for size, output, kernel, stride, (before, _) in axes
    )


def _two(entries: tuple[int, ...], filling: int = 1) -> Two:
    first, second = (filling,) * (2 - len(entries)) + entries
    return first, second


def _sizes(geometry: Geometry, channels: int, filters: int) -> PlaneSizes:
    before = _two(tuple(before for before, _ in geometry.padding), 0)
    return PlaneSizes(_two(geometry.size), _two(geometry.output), before, channels, filters)


def _lend(tiling: Tiling, dtype: Any, **rows: int) -> list[Array]:
    """Return buffers for rows in the transform domain, and for transforming one row."""
    columns = BLOCK_BYTES // dtype.itemsize
    lent = [
        scratch(name, (count * prod(tiling.points) * columns,), dtype)
        for name, count in rows.items()
    ]
    return [*lent, scratch("T", (prod(tiling.positions) * columns,), dtype)]


def _rows(outer: int, inner: int, itemsize: int) -> int:
    """Round up rows to whole tiles of `multiply` and whole blocks of the kernel transform."""
    columns = BLOCK_BYTES // itemsize
    step = ROWS * columns // gcd(ROWS * inner, columns)
    return -(-outer // step) * step


def _at_points(K: Array, tiling: Tiling) -> Array:
    """Transform a kernel.

    K (*kernel, inner, outer) -> (points, outer / ROWS, inner, ROWS)
    """
    inner, outer = K.shape[-2:]
    rows = _rows(outer, inner, K.itemsize)
    packed = scratch("packed", (prod(tiling.kernel), rows // ROWS, inner, ROWS), K.dtype)
    elements = K.reshape(len(packed), inner, outer)
    whole, rest = divmod(outer, ROWS)
    tiles = elements[..., : whole * ROWS].reshape(len(packed), inner, whole, ROWS)
    packed[:, :whole] = tiles.transpose(0, 2, 1, 3)
    packed[:, whole:] = 0
    if rest:
        packed[:, whole, :, :rest] = elements[..., whole * ROWS :]
    at_points = scratch("at points", (prod(tiling.points) * rows * inner,), K.dtype)
    (T,) = _lend(tiling, K.dtype)
    to, _ = kernel_maps(tiling)
    to(at_points, packed.reshape(-1), T, rows * inner)
    return at_points


def c(K: Array, V: Array, geometry: Geometry, tiling: Tiling) -> Array:
    """Strided convolution; see `direct.c`."""
    if not in_range(K, V):
        return direct.c(K, V, geometry)
    O, C, N = K.shape[0], V.shape[0], V.shape[-1]
    sizes, inputs = _sizes(geometry, C, O), flat(V)
    kernel = _at_points(filters_last(K, geometry.axes), tiling)
    Z = empty((*geometry.output, O, N), V.dtype)
    c_loops, _, _ = operations(tiling)

    def compute(chunk: slice) -> None:
        P, Q, T = _lend(tiling, V.dtype, P=C, Q=_rows(O, C, V.itemsize))
        bounds = chunk.start, chunk.stop
        c_loops(Z.reshape(-1), kernel, inputs, N, *bounds, sizes, P, Q, T)

    map_tasks(compute, spread(N))
    return channels_first(Z)


def h(K: Array, G: Array, geometry: Geometry, tiling: Tiling) -> Array:
    """Transposed convolution; see `direct.h`."""
    if not in_range(K, G):
        return direct.h(K, G, geometry)
    O, C, N = K.shape[0], K.shape[-geometry.axes - 1], G.shape[-1]
    sizes, outputs = _sizes(geometry, C, O), flat(G)
    kernel = _at_points(filters_last(K, geometry.axes).swapaxes(-1, -2), tiling)
    V = empty((*geometry.size, C, N), G.dtype)
    _, h_loops, _ = operations(tiling)

    def compute(chunk: slice) -> None:
        P, Q, T = _lend(tiling, G.dtype, P=_rows(C, O, G.itemsize), Q=O)
        bounds = chunk.start, chunk.stop
        h_loops(V.reshape(-1), kernel, outputs, N, *bounds, sizes, P, Q, T)

    map_tasks(compute, spread(N))
    return channels_first(V)


def g(G: Array, V: Array, K_shape: tuple[int, ...], geometry: Geometry, tiling: Tiling) -> Array:
    """Kernel gradient; see `direct.g`."""
    if not in_range(G, V):
        return direct.g(G, V, K_shape, geometry)
    C, O, N = V.shape[0], G.shape[0], V.shape[-1]
    sizes, outputs, inputs = _sizes(geometry, C, O), flat(G), flat(V)
    columns = BLOCK_BYTES // V.itemsize
    chunks = -(-O // columns)
    _, _, g_loops = operations(tiling)
    _, back = kernel_maps(tiling)

    def compute(chunk: slice) -> Array:
        D = scratch("at points", (prod(tiling.points) * chunks * C * columns,), V.dtype)
        D[...] = 0
        U = scratch("U", (prod(tiling.tile) * chunks * columns * columns,), V.dtype)
        if chunks * columns > O:
            U[...] = 0
        P, Q, T = _lend(tiling, V.dtype, P=C, Q=chunks * columns)
        bounds = chunk.start, chunk.stop
        g_loops(D, U, outputs, inputs, N, *bounds, sizes, P, Q, T)
        dK = empty((*geometry.kernel, chunks, C, columns), V.dtype)
        back(dK.reshape(-1), D, T, chunks * C * columns)
        return dK

    dK, *others = map_tasks(compute, spread(N))
    for other in others:
        dK += other
    dK = contiguous(dK.swapaxes(-3, -2)).reshape(*geometry.kernel, C, chunks * columns)
    return filters_first(dK[..., :O]).reshape(K_shape)
