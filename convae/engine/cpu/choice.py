"""Which of its ways an operation goes, and what the terms of a plan take.

Times are counted in multiply-adds of whole vectors, as measured on AVX-512.
"""

from __future__ import annotations

from math import prod

from convae.engine.cpu.division import Axes
from convae.engine.cpu.machine import ARRANGED, CHAINS, RUN, VECTOR_BYTES, multiple
from convae.engine.geometry import Geometry

LONG_ENOUGH = 4
"""Channels of A from which on rows in runs are faster where groups do not share vectors."""

ALONE = 2
"""Groups that would fit into a vector, but have one each: no numbers are arranged then."""

SUMS, TILE_OF_RUNS = 8, 4 * RUN
"""Sums that keep multiply-adds busy: fewer take as long. Rows of a tile of runs likewise."""

READING = 2
"""What it takes to read a row of B anew, in rows for which it is used."""

LONGEST_PASS, WRITING = 128, 16
"""Steps after which sums are written, and what that takes, in steps."""

COPYING = 0.2
"""What it takes to copy an element of A."""

SINGLE, SHARED, SPARED = 1.25, 3.0, 0.25
"""A multiply-add where a row of a single vector is in no run, and if groups share the vector; what
a number that steps share spares a row in a run."""

TURNING, ADDING, PLACING = 15, 0.36, 1.3
"""What vectors along positions take more than others: to copy and transpose a position of A, and
again as much for each vector of its channels; and for each channel of D, to add an element of a row
of the kernel, and to place it."""

HALF = 0.75
"""A multiply-add of half a vector: half of a whole one's time, or as much, by the processor."""

LOADING, ARRANGING, RESTARTING = 9 / 8, 3.5, 5
"""Time that a step takes, in multiply-adds of vectors: where a vector is the only one of its row,
and a number loaded for it alone; where groups share it; and to begin a step by taps."""


def goes_along(operation: str, geometry: Geometry, C: int, O: int, itemsize: int) -> bool:
    """Tell whether c or h of a shared kernel should have its vectors along positions.

    Channels of D that are few do not fill vectors. Positions do, also those of the padding; but
    every element of a row of the kernel has sums of its own, which are added to each other.
    """
    phases, (many, few) = prod(geometry.stride), (O, C) if operation == "h" else (C, O)
    if geometry.groups > 1 or {*geometry.tile} != {1} or (operation == "c" and phases > 1):
        return False
    axes, taps, vector = Axes.of(geometry), prod(geometry.kernel), VECTOR_BYTES // itemsize
    positions, box = axes.boxed(operation)
    vectors, added = many / vector, axes.kernel[2] * phases / axes.stride[2]
    of_box = TURNING * (1 + vectors) + few * (ADDING * added + taps * vectors)
    by_positions = of_box * prod(box) / prod(positions) + few * PLACING
    return by_positions < taps / phases * many * _vectors(few, many, vector)


def goes_by_taps(geometry: Geometry, C: int, O: int, itemsize: int) -> bool:
    """Tell whether g of a shared kernel should have the taps of a kernel's row as vectors.

    Those are as many channels side by side in V, which G's numbers multiply. They may fill vectors
    better than filters do, and a row of them is read once for all filters.
    """
    if {*geometry.tile} != {1} or geometry.dilation[-1] != 1:
        return False
    vector, channels, filters = VECTOR_BYTES // itemsize, C // geometry.groups, O // geometry.groups
    columns = geometry.kernel[-1] * channels

    def time(rows: int, vectors: float) -> float:
        return rows * (vectors if vectors > 1 else vectors * LOADING)

    sharing = together(channels, filters, vector) if geometry.groups > 1 else 1
    by_filters = time(columns, _vectors(filters, channels, vector))
    if sharing > 1:
        by_filters = columns * ARRANGING / sharing
    return time(filters, -(-columns // vector)) + RESTARTING < by_filters


def goes_by_rows(geometry: Geometry, C: int, O: int, itemsize: int) -> bool:
    """Tell whether h of local kernels should have rows of a kernel as vectors.

    A row of a kernel, along the last axis, is as many elements of V' side by side. They fill
    vectors better than few channels do, but sums of O products only are then added to V'.
    """
    k, vector = geometry.kernel[-1], VECTOR_BYTES // itemsize
    is_local = geometry.tile == geometry.output and {*geometry.tile} != {1}
    is_row = geometry.groups == 1 and geometry.dilation[-1] == 1
    return is_local and is_row and (O + WRITING) * -(-k * C // vector) < O * k * -(-C // vector)


def together(A_channels: int, columns: int, vector: int) -> int:
    """How many groups of so many channels in A, and columns, share a vector; 1 has it alone."""
    fit = vector // max(A_channels, columns)
    return fit if fit > ALONE else 1


def longest_chain(A_channels: int, columns: int, vector: int) -> int:
    """Return how many steps may share numbers, for groups of so many channels in A, and columns."""
    is_arranged = together(A_channels, columns, vector) > 1 and max(A_channels, columns) > 1
    return ARRANGED if is_arranged else max(CHAINS)


def time_of_rows(rows: int, depth: int, columns: int, itemsize: int) -> float:
    """Estimate the time of so many rows of D, each a sum of so many steps."""
    vectors = -(-columns * itemsize // VECTOR_BYTES)
    return vectors * (multiple(rows, max(2, SUMS // vectors)) + READING) * (depth + _writing(depth))


def time_of_runs(
    runs: int, others: int, depth: int, spared: int, groups: int, A_channels: int, columns: int,
    itemsize: int,
) -> float:  # fmt: skip
    """Estimate that of runs, and of other rows, in single vectors.

    So many numbers that a row of a run takes are `spared`, since steps share them. Each of the
    groups has so many channels in A, and columns.
    """
    vector = VECTOR_BYTES // itemsize
    sharing = together(A_channels, columns, vector)
    single, each, time = SHARED, 1.0, 0.0
    if sharing == 1:
        single, each = SINGLE, HALF if columns <= vector // 2 else 1
    if runs:
        step = each * (depth + _writing(depth)) - SPARED * spared
        time += (multiple(runs * RUN, TILE_OF_RUNS) + READING) * step
    if others:
        time += (multiple(others, SUMS) + READING) * (single * depth + _writing(depth))
    return -(-groups // sharing) * time


def _writing(depth: int) -> int:
    return WRITING * -(-depth // LONGEST_PASS)


def _vectors(columns: int, A_channels: int, vector: int) -> float:
    """How many vectors a row of columns is, in time; half of one is where rows may be in runs."""
    is_half = columns <= vector // 2 and A_channels >= LONG_ENOUGH
    return HALF if is_half else -(-columns // vector)
