"""Sums of products by tables of offsets: the one loop of which c, h and g are instances."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from convae.engine.arrays import Array
from convae.engine.cpu.jit import compiled
from convae.engine.cpu.offsets import VECTOR_BYTES
from convae.engine.cpu.llvm import (
    MOST_VECTORS,
    copy_row,
    exponential,
    sum_rows,
    tiles,
    transpose,
    zero_row,
)

NOTHING, LINEAR, SIGMOID, SLOPE, ERROR, SIGMOID_ERROR = range(6)
"""Kinds of what may be behind a product."""


class Behind(NamedTuple):
    """What is done with the elements of D when they have just been written.

    LINEAR and SIGMOID add the bias and apply an activation: piecewise linear, or the sigmoid. ERROR
    and SIGMOID_ERROR do so, and then replace y by ``scale * (y - target) * f'(y)``. SLOPE adds
    `extra` and multiplies by f'(H). Arrays are flat, those of no use of one element.

    Parameters
    ----------
    kind : int
        One of these.
    bias : (L,) ndarray
        Biases of the elements of D, again and again.
    slope : float
        Slope of the activation below zero.
    H, extra, target : ndarray
        As D.
    derivative : tuple of four floats
        (p, q, r, below): ``f' = p + q*y + r*y**2``, times below where y is not positive.
    scale : float
        Factor on the error.
    """

    kind: int
    bias: Array
    slope: float
    H: Array
    extra: Array
    target: Array
    derivative: tuple[float, float, float, float]
    scale: float

ROW = 1024
"""Elements that a pass takes at a time."""

L1_BYTES = 24 << 10
"""Memory for the rows of B that a pass over the rows of A reuses."""


@compiled
def multiply(
    D: Array, d: int, D_offsets: Array, A: Array, a: int, A_offsets: Array, first: int, rows: int,
    steps: Array, step: int, depth: int, B: Array, b: int, columns: int, fresh: bool,
) -> None:  # fmt: skip
    """Do what `llvm.tiles` does for any depth and number of columns."""
    if rows == 0:
        return
    if depth == 0 and fresh:
        for r in range(first, first + rows):
            zero_row(D, d + D_offsets[r], columns)
    block = VECTOR_BYTES // D.itemsize
    parts = -(-columns // (MOST_VECTORS * block))
    width = -(-columns // (parts * block)) * block if parts > 0 else block
    length = max(32, L1_BYTES // (width * D.itemsize))
    for j in range(0, columns, width):
        for q in range(0, depth, length):
            tiles(
                D, d + j, D_offsets, A, a, A_offsets, first, rows,
                steps, step + q, min(length, depth - q), B, b + j, min(width, columns - j),
                fresh and q == 0,
            )  # fmt: skip


@compiled
def surround(
    P: Array, V: Array, v: int, examples: int, size: tuple[int, int, int], C: int,
    start: tuple[int, int, int], extent: tuple[int, int, int], whole: tuple[int, int, int],
) -> None:  # fmt: skip
    """Copy a box of V, zeros beyond its edge, into P, which has room for a `whole` box.

    V (N, *size, C) from offset v -> P (examples, *whole, C)
    """
    left = min(max(-start[2], 0), extent[2])
    inside = max(min(extent[2], size[2] - start[2]) - left, 0)
    right = extent[2] - left - inside
    row = whole[2] * C
    for e in range(examples):
        for a0 in range(extent[0]):
            y0 = start[0] + a0
            for a1 in range(extent[1]):
                y1 = start[1] + a1
                p = ((e * whole[0] + a0) * whole[1] + a1) * row
                if y0 < 0 or y0 >= size[0] or y1 < 0 or y1 >= size[1]:
                    zero_row(P, p, extent[2] * C)
                    continue
                source = v + (((e * size[0] + y0) * size[1] + y1) * size[2] + start[2] + left) * C
                zero_row(P, p, left * C)
                copy_row(P, p + left * C, V, source, inside * C)
                zero_row(P, p + (left + inside) * C, right * C)


@compiled
def finish(D: Array, first: int, count: int, behind: Behind) -> float:
    """Do what is behind a product, on elements of D that have just been written.

    See `Behind`; returns the sum of squared errors, 0 where there are none.
    """
    kind, bias, slope, H, extra, target, (p, q, r, below), scale = behind
    is_constant = q == 0 and r == 0  # 0 * inf is not 0
    J, one = 0.0, D.dtype.type(1)
    if kind == NOTHING:
        return J
    if kind == SLOPE:
        for start in range(first, first + count, ROW):
            stop = min(start + ROW, first + count)
            if len(extra) > 1:
                for i in range(start, stop):
                    D[i] += extra[i]
            for i in range(start, stop):
                y = H[i]
                factor = p if is_constant else p + q * y + r * y * y
                D[i] *= factor if y > 0 else below * factor
        return J
    length, i = len(bias), first
    while i < first + count:
        place = i % length
        n = min(length - place, first + count - i)
        row, shift = D[i : i + n], bias[place : place + n]
        if kind == SIGMOID or kind == SIGMOID_ERROR:
            for j in range(n):
                row[j] = one / (one + exponential(-(row[j] + shift[j])))
        else:
            for j in range(n):
                z = row[j] + shift[j]
                if z < 0:
                    z = slope * z if slope != 0 else slope  # 0 * -inf would be NaN
                row[j] = z
        if kind >= ERROR:
            wanted, total = target[i : i + n], one - one
            for j in range(n):
                y = row[j]
                error = y - wanted[j]
                total += error * error
                factor = p if is_constant else p + q * y + r * y * y
                row[j] = scale * error * (factor if y > 0 else below * factor)
            J += total
        i += n
    return J


@compiled
def convolve(
    D: Array, A: Array, B: Array, P: Array, first: int, last: int, size: tuple[int, int, int],
    channels: int, whole: tuple[int, int, int], blocks: Array, terms: Array, rows: Array,
    depths: Array, D_offsets: Array, A_offsets: Array, steps: Array, fresh: bool, span: int,
    behind: Behind,
) -> float:  # fmt: skip
    """Do the terms of the blocks [first, last), each on a box of A, and what is behind them.

    See `offsets.Plan`; returns the sum of what `finish` returns.
    """
    J = 0.0
    for block in range(first, last):
        number = blocks[block, 0]
        start = blocks[block, 3], blocks[block, 4], blocks[block, 5]
        extent = blocks[block, 6], blocks[block, 7], blocks[block, 8]
        surround(P, A, blocks[block, 1], blocks[block, 2], size, channels, start, extent, whole)
        for term in range(len(terms)):
            multiply(
                D, blocks[block, 9] + terms[term, 0], D_offsets, P, terms[term, 1], A_offsets,
                terms[term, 2], rows[term, number], steps, terms[term, 3], depths[term, number],
                B, blocks[block, 10] + terms[term, 4], terms[term, 5], fresh,
            )  # fmt: skip
        J += finish(D, blocks[block, 9], number * span, behind)
    return J


@compiled
def turn(T: Array, A: Array, a: int, rows: int, columns: int, width: int) -> None:
    """Transpose a matrix; what T has beyond it is filled up.

    A (rows, columns) from offset a -> T (columns rounded up to a vector, width)
    """
    vector = VECTOR_BYTES // A.itemsize
    for r in range(0, rows, vector):
        for j in range(0, columns, vector):
            there = min(vector, rows - r), min(vector, columns - j)
            transpose(T, j * width + r, width, A, a + r * columns + j, columns, there[0], there[1])


@compiled
def turn_all(T: Array, A: Array, count: int, rows: int, columns: int, width: int) -> None:
    """Transpose matrices, A (count, rows, columns) -> T (count, columns, width) and some room."""
    for number in range(count):
        turn(T[number * columns * width :], A, number * rows * columns, rows, columns, width)


@compiled
def spread(
    D: Array, G: Array, K: Array, P: Array, T: Array, M: Array, first: int, last: int,
    size: tuple[int, int, int], O: int, whole: tuple[int, int, int], blocks: Array,
    K_offsets: Array, M_offsets: Array, steps: Array, width: int, C: int,
    stride: tuple[int, int, int], positions: int, sums: Array, taps: Array, span: int,
    behind: Behind,
) -> float:  # fmt: skip
    """Compute the blocks [first, last) of h to few channels; see `offsets.NarrowPlan`."""
    J, row = 0.0, np.empty(positions, D.dtype)
    box = whole[0] * whole[1] * whole[2]
    for block in range(first, last):
        start = blocks[block, 3], blocks[block, 4], blocks[block, 5]
        extent = blocks[block, 6], blocks[block, 7], blocks[block, 8]
        examples, d = blocks[block, 2], blocks[block, 9]
        surround(P, G, blocks[block, 1], examples, size, O, start, extent, whole)
        columns = (examples - 1) * box + ((extent[0] - 1) * whole[1] + extent[1]) * whole[2]
        turn(T, P, 0, columns, O, width)
        multiply(
            M, 0, M_offsets, K, 0, K_offsets, 0, len(K_offsets), steps, 0, O, T, 0, columns, True
        )  # fmt: skip
        for e in range(examples):
            for y0 in range(blocks[block, 10]):
                for y1 in range(blocks[block, 11]):
                    t = e * box + (y0 // stride[0] * whole[1] + y1 // stride[1]) * whole[2]
                    phase = (y0 % stride[0] * stride[1] + y1 % stride[1]) * stride[2]
                    for x in range(min(stride[2], positions)):
                        count = -(-(positions - x) // stride[2])
                        begin, terms = sums[phase + x, 0], sums[phase + x, 1]
                        for c in range(C):
                            if terms > 0:
                                sum_rows(row, 0, M, t + c * width, taps, begin, terms, count)
                            else:
                                zero_row(row, 0, count)
                            place = d + x * C + c
                            for a in range(count):
                                D[place + a * stride[2] * C] = row[a]
                    d += positions * C
        J += finish(D, blocks[block, 9], blocks[block, 0] * span, behind)
    return J
