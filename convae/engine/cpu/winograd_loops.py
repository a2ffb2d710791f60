"""The compiled loops of `winograd`: transforms, products and inverse transforms of tiles.

Arrays are flat, positions first and examples last, as in `direct`. P and Q are in the transform
domain, (rows, points, columns): rows are channels or filters, columns a block of examples. T is
scratch for transforming one row; v, g and z are the offsets at which a tile begins. `one` and
`two`, compile-time constants, are kernel, stride, tile and points of each axis.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import prod
from typing import Any, NamedTuple, TypeAlias

from convae.engine.arrays import Array
from convae.engine.cpu.direct import turn
from convae.engine.cpu.jit import compiled, inline
from convae.engine.cpu.llvm import ROWS, from_points, multiply, to_points
from convae.engine.cpu.threads import BLOCK_BYTES
from convae.engine.cpu.toom_cook import scheme

LONGEST_SUM = 32
"""Terms that one sum accumulates in registers, so that float32 keeps its accuracy."""

Two: TypeAlias = tuple[int, int]
Axis: TypeAlias = tuple[int, int, int, int]
Function: TypeAlias = Callable[..., Any]


class PlaneSizes(NamedTuple):
    """A geometry with two axes, a missing first one of size 1, and channel counts."""

    size: Two
    output: Two
    before: Two
    channels: int
    filters: int


class Tiling(NamedTuple):
    """Compile-time constants of the loops: kernel, stride and tile of the two axes."""

    kernel: Two
    stride: Two
    tile: Two

    @property
    def points(self) -> Two:
        """Size of the transform domain along each axis."""
        one, two = (len(scheme(*numbers).K) for numbers in zip(*self, strict=True))
        return one, two

    @property
    def axes(self) -> tuple[Axis, Axis]:
        """Kernel, stride, tile and points of each axis."""
        one, two = zip(*self, self.points, strict=True)
        return one, two

    @property
    def positions(self) -> Two:
        """Input positions that a tile reads along each axis, never fewer than the points."""
        one, two = (s * (m - 1) + k for k, s, m in zip(*self, strict=True))
        return one, two


@compiled
def _exist(start: int, size: int) -> Two:
    """Return the range of offsets from `start` that are positions of the array."""
    return max(0, -start), size - start


@inline
def _kernel_to(one: Axis, two: Axis, D: Array, K: Array, T: Array, plane: int) -> None:
    """Transform a kernel.

    K (k1, k2, plane) -> D (p1, p2, plane)
    """
    (k1, s1, m1, p1), (k2, s2, m2, p2) = one, two
    columns = BLOCK_BYTES // K.itemsize
    for x in range(0, plane, columns):
        for m in range(k2):
            t, k = m * columns, m * plane + x
            to_points("K", k1, s1, m1, T, t, k2 * columns, K, k, k2 * plane, 0, k1)
        for p in range(p1):
            d, t = p * p2 * plane + x, p * k2 * columns
            to_points("K", k2, s2, m2, D, d, plane, T, t, columns, 0, k2)


@inline
def _kernel_back(one: Axis, two: Axis, K: Array, D: Array, T: Array, plane: int) -> None:
    """Inverse-transform a kernel gradient.

    D (p1, p2, plane) -> K (k1, k2, plane)
    """
    (k1, s1, m1, p1), (k2, s2, m2, p2) = one, two
    columns = BLOCK_BYTES // K.itemsize
    for x in range(0, plane, columns):
        for p in range(p1):
            t, d = p * k2 * columns, p * p2 * plane + x
            from_points("K", k2, s2, m2, T, t, columns, 0, k2, D, d, plane, False)
        for m in range(k2):
            k, t = m * plane + x, m * columns
            from_points("K", k1, s1, m1, K, k, k2 * plane, 0, k1, T, t, k2 * columns, False)


@inline
def _input_to(
    one: Axis, two: Axis, P: Array, V: Array, N: int, v: int, y: Two, T: Array, sizes: PlaneSizes
) -> None:
    """Transform the input tile of V that begins at position y into P."""
    (k1, s1, m1, p1), (k2, s2, m2, p2) = one, two
    columns, C, width = BLOCK_BYTES // V.itemsize, sizes.channels, sizes.size[1]
    low1, high1 = _exist(y[0], sizes.size[0])
    low2, high2 = _exist(y[1], width)
    step = p2 * columns
    for channel in range(C):
        for n in range(low1, min(high1, s1 * (m1 - 1) + k1)):
            row = v + (n * width * C + channel) * N
            to_points("V", k2, s2, m2, T, n * step, columns, V, row, C * N, low2, high2)
        for p in range(p2):
            t, place = p * columns, (channel * p1 * p2 + p) * columns
            to_points("V", k1, s1, m1, P, place, step, T, t, step, low1, high1)


@inline
def _input_back(
    one: Axis, two: Axis, V: Array, N: int, v: int, y: Two, P: Array, T: Array, sizes: PlaneSizes
) -> None:
    """Inverse-transform P and add it to the input tile of V that begins at position y."""
    (k1, s1, m1, p1), (k2, s2, m2, p2) = one, two
    columns, C, width = BLOCK_BYTES // V.itemsize, sizes.channels, sizes.size[1]
    low1, high1 = _exist(y[0], sizes.size[0])
    low2, high2 = _exist(y[1], width)
    step, positions = p2 * columns, s1 * (m1 - 1) + k1
    for channel in range(C):
        for p in range(p2):
            t, place = p * columns, (channel * p1 * p2 + p) * columns
            from_points("V", k1, s1, m1, T, t, step, 0, positions, P, place, step, False)
        for n in range(low1, min(high1, positions)):
            row = v + (n * width * C + channel) * N
            from_points("V", k2, s2, m2, V, row, C * N, low2, high2, T, n * step, columns, True)


@inline
def _output_to(
    one: Axis, two: Axis, P: Array, G: Array, N: int, g: int, O: int, width: int, exist: Two,
    T: Array,
) -> None:  # fmt: skip
    """Transform an output tile of G, of which `exist` outputs are in range, into P.

    G (..., width, O, N) -> P (O, points, columns)
    """
    (k1, s1, m1, p1), (k2, s2, m2, p2) = one, two
    columns = BLOCK_BYTES // G.itemsize
    step = p2 * columns
    for o in range(O):
        for j in range(min(m1, exist[0])):
            row = g + (j * width * O + o) * N
            to_points("G", k2, s2, m2, T, j * step, columns, G, row, O * N, 0, exist[1])
        for p in range(p2):
            t, place = p * columns, (o * p1 * p2 + p) * columns
            to_points("G", k1, s1, m1, P, place, step, T, t, step, 0, exist[0])


@inline
def _output_back(
    one: Axis, two: Axis, Z: Array, N: int, z: int, O: int, width: int, exist: Two, P: Array,
    T: Array,
) -> None:  # fmt: skip
    """Inverse-transform P into an output tile of Z, of which `exist` outputs are in range.

    P (O, points, columns) -> Z (..., width, O, N)
    """
    (k1, s1, m1, p1), (k2, s2, m2, p2) = one, two
    columns = BLOCK_BYTES // Z.itemsize
    step = p2 * columns
    for o in range(O):
        for p in range(p2):
            t, place = p * columns, (o * p1 * p2 + p) * columns
            from_points("G", k1, s1, m1, T, t, step, 0, m1, P, place, step, False)
        for j in range(min(m1, exist[0])):
            row = z + (j * width * O + o) * N
            from_points("G", k2, s2, m2, Z, row, O * N, 0, exist[1], T, j * step, columns, False)


@compiled
def _products(Q: Array, K: Array, P: Array, points: int, outer: int, inner: int) -> None:
    """Multiply Q = K @ P at every point.

    K (points, outer / ROWS, inner, ROWS); P (inner, points, columns) -> Q (outer, points, columns)
    """
    columns = BLOCK_BYTES // Q.itemsize
    step, k = points * columns, 0
    for p in range(points):
        for row in range(0, outer, ROWS):
            q = (row * points + p) * columns
            for i in range(0, inner, LONGEST_SUM):
                depth = min(LONGEST_SUM, inner - i)
                x = (i * points + p) * columns
                multiply(ROWS, Q, q, step, K, k, 1, ROWS, 0, P, x, step, 0, depth, 1, i == 0)
                k += depth * ROWS


@compiled
def _gradients(D: Array, P: Array, Q: Array, points: int, C: int, chunks: int) -> None:
    """Add V^ @ G^^T at every point to D; a chunk is a block of `columns` filters here.

    P (C, points, columns); Q (chunks, examples, points, columns) -> D (points, chunks, C, columns)
    """
    columns = BLOCK_BYTES // D.itemsize
    step, d = points * columns, 0
    for p in range(points):
        for chunk in range(chunks):
            q = (chunk * columns * points + p) * columns
            # fmt: off
            multiply(C, D, d, columns, P, p * columns, step, 1, 0,
                     Q, q, step, 0, columns, 1, False)
            # fmt: on
            d += C * columns


@inline
def _places(one: Axis, two: Axis, sizes: PlaneSizes, j1: int, j2: int) -> tuple[int, Two, int, Two]:
    """Return a tile's offset and position in V, its offset in Z, and its outputs in range."""
    (_, s1, _, _), (_, s2, _, _) = one, two
    y = j1 * s1 - sizes.before[0], j2 * s2 - sizes.before[1]
    exist = sizes.output[0] - j1, sizes.output[1] - j2
    v = (y[0] * sizes.size[1] + y[1]) * sizes.channels
    return v, y, (j1 * sizes.output[1] + j2) * sizes.filters, exist


@cache
def kernel_maps(tiling: Tiling) -> tuple[Function, Function]:
    """Compile the transform of a kernel and the inverse transform of its gradient."""
    one, two = tiling.axes

    @compiled
    def to(D: Array, K: Array, T: Array, plane: int) -> None:
        _kernel_to(one, two, D, K, T, plane)

    @compiled
    def back(K: Array, D: Array, T: Array, plane: int) -> None:
        _kernel_back(one, two, K, D, T, plane)

    return to, back


@cache
def operations(tiling: Tiling) -> tuple[Function, Function, Function]:
    """Compile c, h and g of a transformed kernel for examples [first, last)."""
    # Callees are global, since Numba does not find a closure over functions in its disk cache.
    one, two = tiling.axes
    (m1, m2), points = tiling.tile, prod(tiling.points)

    @compiled
    def c(
        Z: Array, K: Array, V: Array, N: int, first: int, last: int, sizes: PlaneSizes,
        P: Array, Q: Array, T: Array,
    ) -> None:  # fmt: skip
        C, O, width = sizes.channels, sizes.filters, sizes.output[1]
        outer = len(K) // (points * C)
        for example in range(first, last, BLOCK_BYTES // Z.itemsize):
            for j1 in range(0, sizes.output[0], m1):
                for j2 in range(0, width, m2):
                    v, y, z, exist = _places(one, two, sizes, j1, j2)
                    _input_to(one, two, P, V, N, v * N + example, y, T, sizes)
                    _products(Q, K, P, points, outer, C)
                    _output_back(one, two, Z, N, z * N + example, O, width, exist, Q, T)

    @compiled
    def h(
        V: Array, K: Array, G: Array, N: int, first: int, last: int, sizes: PlaneSizes,
        P: Array, Q: Array, T: Array,
    ) -> None:  # fmt: skip
        columns, O, width = BLOCK_BYTES // V.itemsize, sizes.filters, sizes.output[1]
        outer = len(K) // (points * O)
        for example in range(first, last, columns):
            for row in range(example, len(V), N):
                V[row : row + columns] = 0
            for j1 in range(0, sizes.output[0], m1):
                for j2 in range(0, width, m2):
                    v, y, g, exist = _places(one, two, sizes, j1, j2)
                    _output_to(one, two, Q, G, N, g * N + example, O, width, exist, T)
                    _products(P, K, Q, points, outer, O)
                    _input_back(one, two, V, N, v * N + example, y, P, T, sizes)

    @compiled
    def g(
        D: Array, U: Array, G: Array, V: Array, N: int, first: int, last: int, sizes: PlaneSizes,
        P: Array, Q: Array, T: Array,
    ) -> None:  # fmt: skip
        columns, O, width = BLOCK_BYTES // V.itemsize, sizes.filters, sizes.output[1]
        filters = -(-O // columns) * columns
        for example in range(first, last, columns):
            for j1 in range(0, sizes.output[0], m1):
                for j2 in range(0, width, m2):
                    v, y, g, exist = _places(one, two, sizes, j1, j2)
                    for j in range(min(m1, exist[0])):
                        for i in range(min(m2, exist[1])):
                            row = (g + (j * width + i) * O) * N + example
                            turn(U[(j * m2 + i) * filters * columns :], G, row, N, O, 1)
                    _input_to(one, two, P, V, N, v * N + example, y, T, sizes)
                    _output_to(one, two, Q, U, columns, 0, filters, m2, exist, T)
                    _gradients(D, P, Q, points, sizes.channels, filters // columns)

    return c, h, g
