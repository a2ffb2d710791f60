"""Fewer multiplications for short convolutions: schemes found by Toom and Cook, in exact fractions.

Along one axis, `tile` neighbouring outputs of a kernel are a small trilinear form,

    T(k, v, g) = sum over j and m of  k[m] v[j*s + m] g[j],

whose three derivatives are c, h and g. It costs tile * kernel multiplications. Read as a product
of the polynomials with coefficients k and g, evaluated at as many points as it has coefficients and
interpolated, it costs tile + kernel - 1, and is

    T(k, v, g) = sum over p of  (K[p] . k) (V[p] . v) (G[p] . g)

with three small matrices K, V and G, one row for each point. This is Winograd's minimal filtering
(Lavin and Gray 2016, *Fast algorithms for convolutional neural networks*), for all three operations
at once. With a stride the kernel falls into as many kernels, of every s-th element, whose forms are
added.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import NamedTuple, TypeAlias

Matrix: TypeAlias = list[list[Fraction]]

POINTS = tuple(map(Fraction, (0, 1, -1, 2, -2)))
"""Where polynomials are evaluated, besides infinity; further ones cost float32 its accuracy."""


class Scheme(NamedTuple):
    """The three matrices of a decomposition, with a row for each multiplication.

    Attributes
    ----------
    K : (points, kernel) list
        What becomes of the kernel's elements.
    V : (points, stride * (tile - 1) + kernel) list
        What becomes of the input's positions.
    G : (points, tile) list
        What becomes of the output's positions.
    """

    K: Matrix
    V: Matrix
    G: Matrix


def possible(kernel: int, stride: int, tile: int) -> bool:
    """Tell whether there are points enough for a scheme."""
    longest = -(-kernel // stride)
    return min(longest, tile) == 1 or tile + longest - 2 <= len(POINTS)


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
    """Decompose the form of stride 1 with kernel + tile - 1 multiplications."""
    count = kernel + tile - 1
    K, W, G = (
        [*([point**n for n in range(length)] for point in POINTS[: count - 1]), _unit(-1, length)]
        for length in (kernel, count, tile)
    )
    return Scheme(K, [list(column) for column in zip(*_inverse(W), strict=True)], G)


def _plain(kernel: int, tile: int) -> Scheme:
    """Write the form of stride 1 out."""
    pairs = [(m, j) for j in range(tile) for m in range(kernel)]
    return Scheme(
        [_unit(m, kernel) for m, _ in pairs],
        [_unit(j + m, kernel + tile - 1) for m, j in pairs],
        [_unit(j, tile) for _, j in pairs],
    )


def _unit(place: int, length: int) -> list[Fraction]:
    return [Fraction(n == place % length) for n in range(length)]


def _spread(row: list[Fraction], length: int, start: int, step: int) -> list[Fraction]:
    """Put a row's entries on every step-th place of a longer one."""
    spread = [Fraction(0)] * length
    spread[start : start + step * len(row) : step] = row
    return spread


def _inverse(matrix: Matrix) -> Matrix:
    """Invert a matrix whose leading minors are not zero, by Gauss and Jordan."""
    size = len(matrix)
    rows = [[*row, *_unit(n, size)] for n, row in enumerate(matrix)]
    for n in range(size):
        rows[n] = [entry / rows[n][n] for entry in rows[n]]
        for other in range(size):
            if other != n:
                factor = rows[other][n]
                rows[other] = [a - factor * b for a, b in zip(rows[other], rows[n], strict=True)]
    return [row[size:] for row in rows]
