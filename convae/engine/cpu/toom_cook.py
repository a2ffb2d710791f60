"""Winograd's minimal filtering for short convolutions, by exact Toom-Cook schemes.

Along one axis, a tile of `tile` neighbouring outputs defines a small trilinear form,

    T(k, v, g) = sum over j and m of  k[m] v[j*s + m] g[j],

whose three derivatives are c, h and g. Evaluated directly, it takes tile * kernel multiplications.
With stride 1 it can be read as the product of the polynomials with coefficients k and g, which is
evaluated at as many points as it has coefficients and interpolated. That takes tile + kernel - 1:

    T(k, v, g) = sum over p of  (K[p] . k) (V[p] . v) (G[p] . g)

with three small transform matrices K, V and G, one row per point (Lavin and Gray 2016, *Fast
algorithms for convolutional neural networks*), for all three operations at once. With stride s the
kernel is split into s kernels of every s-th element, whose forms are added.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import NamedTuple, TypeAlias

Matrix: TypeAlias = list[list[Fraction]]

POINTS = (Fraction(0), Fraction(1), Fraction(-1), Fraction(-1, 2), Fraction(2))
"""Evaluation points besides infinity.

-1/2 and 2 lose fewer digits in float32 than 2 and -2 or 1/2 and -1/2 (Barabasz et al. 2020, *Error
analysis and improving the accuracy of Winograd convolution for deep neural networks*).
"""


LONGEST = 4
"""Kernel elements; the fourth powers of a fifth one would cost float32 more digits."""


class Scheme(NamedTuple):
    """The transform matrices of a decomposition, one row per multiplication.

    K (points, kernel); V (points, stride * (tile - 1) + kernel); G (points, tile)
    """

    K: Matrix
    V: Matrix
    G: Matrix


def possible(kernel: int, stride: int, tile: int) -> bool:
    """Tell whether there are enough evaluation points for a scheme."""
    longest = -(-kernel // stride)
    if min(longest, tile) == 1:
        return True
    return longest <= LONGEST and tile + longest - 2 <= len(POINTS)


@cache
def scheme(kernel: int, stride: int, tile: int) -> Scheme:
    """Decompose the trilinear form of one axis."""
    found = Scheme([], [], [])
    positions = stride * (tile - 1) + kernel
    for phase in range(min(stride, kernel)):
        elements = range(phase, kernel, stride)
        decompose = _plain if 1 in (len(elements), tile) else _toom_cook
        K, V, G = decompose(len(elements), tile)
        found.K.extend(_spread(row, kernel, phase, stride) for row in K)
        found.V.extend(_spread(row, positions, phase, stride) for row in V)
        found.G.extend(G)
    return found


def _toom_cook(kernel: int, tile: int) -> Scheme:
    """Decompose the form for stride 1 with kernel + tile - 1 multiplications."""
    count = kernel + tile - 1
    K, W, G = (
        [*([point**n for n in range(length)] for point in POINTS[: count - 1]), _unit(-1, length)]
        for length in (kernel, count, tile)
    )
    return Scheme(K, [list(column) for column in zip(*_inverse(W), strict=True)], G)


def _plain(kernel: int, tile: int) -> Scheme:
    """Decompose the form for stride 1 directly, with kernel * tile multiplications."""
    pairs = [(m, j) for j in range(tile) for m in range(kernel)]
    return Scheme(
        [_unit(m, kernel) for m, _ in pairs],
        [_unit(j + m, kernel + tile - 1) for m, j in pairs],
        [_unit(j, tile) for _, j in pairs],
    )


def _unit(place: int, length: int) -> list[Fraction]:
    return [Fraction(n == place % length) for n in range(length)]


def _spread(row: list[Fraction], length: int, start: int, step: int) -> list[Fraction]:
    """Place a row's entries at every step-th position of a longer row."""
    spread = [Fraction(0)] * length
    spread[start : start + step * len(row) : step] = row
    return spread


def _inverse(matrix: Matrix) -> Matrix:
    """Invert a matrix with nonzero leading minors by Gauss-Jordan elimination."""
    size = len(matrix)
    rows = [[*row, *_unit(n, size)] for n, row in enumerate(matrix)]
    for n in range(size):
        rows[n] = [entry / rows[n][n] for entry in rows[n]]
        for other in range(size):
            if other != n:
                factor = rows[other][n]
                rows[other] = [a - factor * b for a, b in zip(rows[other], rows[n], strict=True)]
    return [row[size:] for row in rows]
