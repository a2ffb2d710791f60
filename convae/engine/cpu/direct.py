"""c, h and g of shared kernels without unfolding: small matrix products on parts of the arrays.

Arrays here are positions first, examples last, ``(*size, C, N)``. The input that row m of a kernel
reads at output position j is then a matrix of ``kernel * C`` consecutive rows of examples, and all
three operations are sums of small matrix products, without copies:

    c:  Z[j]          = sum over m of  K[m]   @ V[j*s + m]
    h:  V'[j*s + m]  += K[m]^T @ G[j]
    g:  dK[m]^T       = sum over j of  V[j*s + m] @ G[j]^T

They share one building block, the batch-reduce GEMM (Georganas et al. 2020, *Harnessing deep
learning via a single building block*), `llvm.multiply`: it keeps a tile of the result in registers
while it accumulates over several pairs of matrices. Kernel elements that read padding are skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from convae.engine.arrays import Array
from convae.engine.backend import filters_first
from convae.engine.cpu.jit import compiled
from convae.engine.cpu.llvm import VECTOR_BYTES, multiply, transpose
from convae.engine.cpu.threads import (
    BLOCK_BYTES,
    contiguous,
    empty,
    map_tasks,
    scratch,
    spread,
)
from convae.engine.geometry import Geometry

Three: TypeAlias = tuple[int, int, int]

LONGEST_SUM = 512
"""Terms that one sum accumulates in registers; the sums of longer ones are added, for accuracy."""


class Sizes(NamedTuple):
    """A geometry with three axes, missing leading ones of size 1, and channel counts."""

    size: Three
    output: Three
    kernel: Three
    stride: Three
    before: Three
    channels: int
    filters: int


@compiled
def _meets(sizes: Sizes, axis: int, j: int) -> tuple[int, int]:
    """Return the range of kernel elements that overlap the input at output position j."""
    y = j * sizes.stride[axis] - sizes.before[axis]
    low = max(0, -y)
    return low, max(low, min(sizes.kernel[axis], sizes.size[axis] - y))


@compiled
def _count(sizes: Sizes) -> int:
    """Count the output positions."""
    return sizes.output[0] * sizes.output[1] * sizes.output[2]


@compiled
def _position(sizes: Sizes, j: int) -> Three:
    """Return the indices along each axis of flat output position j."""
    rest, j2 = divmod(j, sizes.output[2])
    j0, j1 = divmod(rest, sizes.output[1])
    return j0, j1, j2


@compiled
def _run(sizes: Sizes, j: int) -> int:
    """Return the end of the run from j on where the whole kernel is in range; at least j + 1."""
    whole = (0, sizes.kernel[2])
    end = j + 1
    while _meets(sizes, 2, j) == whole and end < sizes.output[2] and _meets(sizes, 2, end) == whole:
        end += 1
    return end


@compiled
def _row(sizes: Sizes, j0: int, m0: int, j1: int, m1: int, j2: int, m2: int) -> int:
    """Return the row of examples, channel 0, that kernel element m reads at output position j."""
    y0 = j0 * sizes.stride[0] - sizes.before[0] + m0
    y1 = j1 * sizes.stride[1] - sizes.before[1] + m1
    y2 = j2 * sizes.stride[2] - sizes.before[2] + m2
    return ((y0 * sizes.size[1] + y1) * sizes.size[2] + y2) * sizes.channels


# Below, arrays are flat, C and O are the numbers of channels and filters, `example` is the first
# example of a block, and z, v, k, g, d and t are offsets into the arrays of these names.


@compiled
def _c(Z: Array, K: Array, V: Array, N: int, first: int, last: int, sizes: Sizes) -> None:
    """Compute Z for examples [first, last).

    K (*kernel, C, O); V (*size, C, N) -> Z (*output, O, N)
    """
    (_, k1, k2), C, O = sizes.kernel, sizes.channels, sizes.filters
    columns = BLOCK_BYTES // Z.itemsize
    for example in range(first, last, columns):
        z = example
        for j in range(_count(sizes)):
            j0, j1, j2 = _position(sizes, j)
            low0, high0 = _meets(sizes, 0, j0)
            low1, high1 = _meets(sizes, 1, j1)
            low2, high2 = _meets(sizes, 2, j2)
            if low0 == high0 or low1 == high1 or low2 == high2:  # only padding: no product sets Z
                for row in range(z, z + O * N, N):
                    Z[row : row + columns] = 0
                low0 = high0
            depth, fresh = (high2 - low2) * C, True
            rows = max(1, LONGEST_SUM // max(depth, 1))  # kernel rows of one product
            for m0 in range(low0, high0):
                for m1 in range(low1, high1, rows):
                    for c in range(0, depth, LONGEST_SUM):
                        k = (((m0 * k1 + m1) * k2 + low2) * C + c) * O
                        v = (_row(sizes, j0, m0, j1, m1, j2, low2) + c) * N + example
                        # fmt: off
                        multiply(O, Z, z, N, K, k, 1, O, k2 * C * O,
                                 V, v, N, sizes.size[2] * C * N,
                                 min(LONGEST_SUM, depth - c), min(rows, high1 - m1), fresh)
                        # fmt: on
                        fresh = False
            z += O * N


@compiled
def _h(V: Array, K: Array, G: Array, N: int, first: int, last: int, sizes: Sizes) -> None:
    """Compute V' for examples [first, last).

    K (*kernel, C, O); G (*output, O, N) -> V (*size, C, N)
    """
    (_, k1, k2), C, O = sizes.kernel, sizes.channels, sizes.filters
    columns = BLOCK_BYTES // V.itemsize
    for example in range(first, last, columns):
        for v in range(example, len(V), N):
            V[v : v + columns] = 0
        g = example
        for j in range(_count(sizes)):
            j0, j1, j2 = _position(sizes, j)
            low0, high0 = _meets(sizes, 0, j0)
            low1, high1 = _meets(sizes, 1, j1)
            low2, high2 = _meets(sizes, 2, j2)
            for m0 in range(low0, high0):
                for m1 in range(low1, high1):
                    k = ((m0 * k1 + m1) * k2 + low2) * C * O
                    v = _row(sizes, j0, m0, j1, m1, j2, low2) * N + example
                    multiply((high2 - low2) * C, V, v, N, K, k, O, 1, 0, G, g, N, 0, O, 1, False)
            g += O * N


@compiled
def turn(T: Array, G: Array, g: int, N: int, O: int, positions: int) -> None:
    """Transpose a block of examples of G, which begins at offset g, into T.

    G (positions, O, N) -> T (O / columns, positions, columns of examples, columns of filters)
    """
    # so that `multiply` reads T contiguously
    vector = VECTOR_BYTES // G.itemsize
    columns = BLOCK_BYTES // G.itemsize
    whole = O // vector * vector
    for j in range(positions):
        for o in range(0, whole, vector):
            t = (o // columns * positions + j) * columns * columns + o % columns
            for n in range(0, columns, vector):
                transpose(T, t + n * columns, columns, G, g + (j * O + o) * N + n, N)
        for o in range(whole, O):
            t = (o // columns * positions + j) * columns * columns + o % columns
            for n in range(columns):
                T[t + n * columns] = G[g + (j * O + o) * N + n]


@compiled
def _g(D: Array, T: Array, G: Array, V: Array, N: int, first: int, last: int, sizes: Sizes) -> None:
    """Accumulate the gradient over examples [first, last) in D; T is scratch for `turn`.

    G (*output, O, N); V (*size, C, N) -> D (*kernel, C, filters), O rounded up to whole blocks
    """
    (_, k1, k2), C, O = sizes.kernel, sizes.channels, sizes.filters
    positions = sizes.output[2]
    columns = BLOCK_BYTES // V.itemsize
    filters = len(T) // (positions * columns)
    for example in range(first, last, columns):
        g = example
        for j in range(0, _count(sizes), positions):
            j0, j1, _ = _position(sizes, j)
            low0, high0 = _meets(sizes, 0, j0)
            low1, high1 = _meets(sizes, 1, j1)
            turn(T, G, g, N, O, positions)
            for o in range(0, filters, columns):
                for m0 in range(low0, high0):
                    for m1 in range(low1, high1):
                        j2 = 0
                        while j2 < positions:
                            end = _run(sizes, j2)
                            low2, high2 = _meets(sizes, 2, j2)
                            d = ((m0 * k1 + m1) * k2 + low2) * C * filters + o
                            v = _row(sizes, j0, m0, j1, m1, j2, low2) * N + example
                            t = (o * positions + j2 * columns) * columns
                            # fmt: off
                            multiply((high2 - low2) * C, D, d, filters,
                                     V, v, N, 1, sizes.stride[2] * C * N,
                                     T, t, columns, columns * columns, columns, end - j2, False)
                            # fmt: on
                            j2 = end
            g += positions * O * N


def _sizes(geometry: Geometry, channels: int, filters: int) -> Sizes:
    def three(entries: Sequence[int], filling: int) -> Three:
        first, second, third = (filling,) * (3 - len(entries)) + tuple(entries)
        return first, second, third

    return Sizes(
        three(geometry.size, 1),
        three(geometry.output, 1),
        three(geometry.kernel, 1),
        three(geometry.stride, 1),
        three([before for before, _ in geometry.padding], 0),
        channels,
        filters,
    )


def flat(array: Array) -> Array:
    """Flatten (C, *size, N) to memory order (*size, C, N), copying only if necessary."""
    axes = array.ndim - 2
    return contiguous(array.transpose(*range(1, axes + 1), 0, -1)).reshape(-1)


def filters_last(K: Array, axes: int) -> Array:
    """Convert a kernel to filters-last memory order, copying only if necessary.

    K (O, C, *kernel) -> (prod(kernel), C, O)
    """
    elements = K.reshape(K.shape[0], K.shape[-axes - 1], -1)
    return contiguous(elements.transpose(2, 1, 0))


def channels_first(array: Array) -> Array:
    """View (*size, C, N) as (C, *size, N)."""
    axes = array.ndim - 2
    return array.transpose(axes, *range(axes), -1)


def c(K: Array, V: Array, geometry: Geometry) -> Array:
    """Strided convolution.

    K (O, C, *kernel); V (C, *size, N) -> (O, *output, N)
    """
    O, C, N = K.shape[0], V.shape[0], V.shape[-1]
    sizes, inputs = _sizes(geometry, C, O), flat(V)
    matrices = filters_last(K, geometry.axes).reshape(-1)
    Z = empty((*geometry.output, O, N), V.dtype)

    def compute(chunk: slice) -> None:
        _c(Z.reshape(-1), matrices, inputs, N, chunk.start, chunk.stop, sizes)

    map_tasks(compute, spread(N))
    return channels_first(Z)


def h(K: Array, G: Array, geometry: Geometry) -> Array:
    """Transposed convolution.

    K (O, C, *kernel); G (O, *output, N) -> (C, *size, N)
    """
    O, C, N = K.shape[0], K.shape[-geometry.axes - 1], G.shape[-1]
    sizes, outputs = _sizes(geometry, C, O), flat(G)
    matrices = filters_last(K, geometry.axes).reshape(-1)
    V = empty((*geometry.size, C, N), G.dtype)

    def compute(chunk: slice) -> None:
        _h(V.reshape(-1), matrices, outputs, N, chunk.start, chunk.stop, sizes)

    map_tasks(compute, spread(N))
    return channels_first(V)


def g(G: Array, V: Array, K_shape: tuple[int, ...], geometry: Geometry) -> Array:
    """Kernel gradient.

    G (O, *output, N); V (C, *size, N) -> (O, C, *kernel)
    """
    C, O, N = V.shape[0], G.shape[0], V.shape[-1]
    sizes, outputs, inputs = _sizes(geometry, C, O), flat(G), flat(V)
    columns = BLOCK_BYTES // V.itemsize
    filters = -(-O // columns) * columns

    def compute(chunk: slice) -> Array:
        D = empty((*geometry.kernel, C, filters), V.dtype)
        D[...] = 0
        T = scratch("turned", (filters * geometry.output[-1] * columns,), V.dtype)
        if filters > O:
            T[...] = 0
        _g(D.reshape(-1), T, outputs, inputs, N, chunk.start, chunk.stop, sizes)
        return D

    D, *others = map_tasks(compute, spread(N))
    for other in others:
        D += other
    return filters_first(D[..., :O]).reshape(K_shape)
