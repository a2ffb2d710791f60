"""Which of its ways an operation goes, by the sizes of its problem.

Times are counted in multiply-adds of whole vectors, as measured on AVX-512.
"""

from __future__ import annotations

from math import prod

from convae.engine.cpu.offsets import ALONE, LONG_ENOUGH, VECTOR_BYTES, WRITING
from convae.engine.geometry import Geometry

STARTING, TURNING, PLACING, ADDING, NARROW = 7, 17, 3, 0.5, 1.6
"""What vectors along positions take for each, in multiply-adds of vectors of channels: to begin a
row of D, which others take, too; to transpose A; to place a channel of D; and for each element of
the kernel that meets it, to add a channel's sum, and a vector's multiply-add."""

HALF = 0.75
"""A multiply-add of half a vector: half of a whole one's time, or as much, by the processor."""

LOADING, ARRANGING, RESTARTING = 9 / 8, 3.5, 5
"""Time that a step takes, in multiply-adds of vectors: where a vector is the only one of its row,
and a number loaded for it alone; where groups share it; and to begin a step by taps."""


def goes_along(operation: str, geometry: Geometry, C: int, O: int, itemsize: int) -> bool:
    """Tell whether c or h of a shared kernel should have its vectors along positions.

    Channels of D that are few do not fill vectors. Positions do, but then every element of the
    kernel has sums of its own, which are added to each other afterwards.
    """
    phases, (many, few) = prod(geometry.stride), (O, C) if operation == "h" else (C, O)
    if geometry.groups > 1 or {*geometry.tile} != {1} or (operation == "c" and phases > 1):
        return False
    vector, taps = VECTOR_BYTES // itemsize, prod(geometry.kernel) / phases
    by_channels = taps * many * _vectors(few, many, vector) + STARTING
    of_channel = PLACING + taps * (ADDING + NARROW * many / vector)
    return TURNING / phases + STARTING + few * of_channel < by_channels


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

    together = vector // max(channels, filters) if geometry.groups > 1 else 1
    by_filters = time(columns, _vectors(filters, channels, vector))
    if together > ALONE:
        by_filters = columns * ARRANGING / together
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


def _vectors(columns: int, A_channels: int, vector: int) -> float:
    """How many vectors a row of columns is, in time; half of one is where rows may be in runs."""
    is_half = columns <= vector // 2 and A_channels >= LONG_ENOUGH
    return HALF if is_half else -(-columns // vector)
