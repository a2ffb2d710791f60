"""Positions that meet the same kernel elements in the same way, which share tables of offsets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np

from convae.engine.cpu.division import Axes, Division, Four, Table, Three


@dataclass(frozen=True)
class Group:
    """Positions of an axis that meet the same kernel elements in the same way.

    Parameters
    ----------
    places : tuple of int
        The positions of D, or of G for g, that belong to it.
    bases : tuple of int
        For each, the position of the box from which `taps` count.
    taps : tuple of (element, shift, tile)
        The kernel elements, positions of the box from the base on, and the tile's kernel.
    """

    places: tuple[int, ...]
    bases: tuple[int, ...]
    taps: tuple[Three, ...]


def _grouped(found: list[tuple[int, tuple[Three, ...]]], apart: bool) -> list[Group]:
    """Group positions, given in order by their bases and taps; of each tap, if they are `apart`."""
    members: dict[tuple[Three, ...], list[int]] = {}
    for place, (_, taps) in enumerate(found):
        for some in [(tap,) for tap in taps] if apart else [taps]:
            members.setdefault(some, []).append(place)
    return [
        Group(tuple(places), tuple(found[place][0] for place in places), taps)
        for taps, places in members.items()
    ]


def output_groups(axes: Axes, axis: int, count: int, is_exact: bool, apart: bool) -> list[Group]:
    """Group a block's output positions along an axis, for c and g."""
    k, s, d = axes.kernel[axis], axes.stride[axis], axes.dilation[axis]
    before, size, tile = axes.before[axis], axes.size[axis], axes.tile[axis]

    def taps(j: int) -> tuple[Three, ...]:
        inside = (m for m in range(k) if not is_exact or 0 <= j * s - before + m * d < size)
        return tuple((m, m * d, j % tile) for m in inside)

    start = before if is_exact else 0
    return _grouped([(j * s - start, taps(j)) for j in range(count)], apart)


def input_groups(axes: Axes, axis: int, count: int, is_exact: bool, apart: bool) -> list[Group]:
    """Group a block's input positions along an axis, for h."""
    start = axes.reach[axis] if is_exact else 0
    bases = (y // axes.stride[axis] + start for y in range(count))
    taps = (input_taps(axes, axis, y, is_exact) for y in range(count))
    return _grouped(list(zip(bases, taps, strict=True)), apart)


def input_taps(axes: Axes, axis: int, y: int, is_exact: bool) -> tuple[Three, ...]:
    """List the taps of a position of V, where `is_exact` only those that are not padding."""
    k, s, d = axes.kernel[axis], axes.stride[axis], axes.dilation[axis]
    before, output, tile = axes.before[axis], axes.output[axis], axes.tile[axis]
    met = ((m, (y + before - m * d) // s) for m in range(k) if (y + before - m * d) % s == 0)
    inside = ((m, j) for m, j in met if not is_exact or 0 <= j < output)
    return tuple((m, j - y // s - axes.reach[axis], j % tile) for m, j in inside)


def output_taps(axes: Axes, axis: int) -> tuple[Three, ...]:
    """List the taps of a position of Z, those in the padding, too; all meet the same kernel."""
    return tuple((m, m * axes.dilation[axis], 0) for m in range(axes.kernel[axis]))


@dataclass(frozen=True)
class Class:
    """Positions that meet the same kernel elements in the same way: a group of every axis.

    Parameters
    ----------
    bases, places : (P,) ndarray
        Where in the box, and in D or G, the positions of a block's examples begin.
    numbers : (P,) ndarray
        Their coordinate along the divided axis.
    shifts, elements : (Q,) ndarray
        Where in the box, counted from the bases, the kernel elements meet, and which they are:
        ``tile * prod(kernel) + element``.
    """

    bases: Table
    places: Table
    numbers: Table
    shifts: Table
    elements: Table

    @property
    def rows(self) -> tuple[Table, Table, Table]:
        """Its positions as rows of D and A, with their numbers, where D is at positions."""
        return self.places, self.bases, self.numbers


def classes(
    axes: Axes, groups: list[list[Group]], division: Division, box: Four, whole: Four
) -> Iterator[Class]:  # fmt: skip
    """List the classes; `box` and `whole` are the strides of the box, and of D or G."""
    examples = np.arange(division.box[0])
    for chosen in product(*groups):
        coordinates = [examples, *(np.array(group.places, np.int64) for group in chosen)]
        bases = [examples, *(np.array(group.bases, np.int64) for group in chosen)]
        shifts, elements = [np.zeros(1, np.int64)], [np.zeros(1, np.int64)]
        tiles = [np.zeros(1, np.int64)]
        for axis, group in enumerate(chosen):
            taps = np.array(group.taps, np.int64).reshape(-1, 3)
            shifts.append(taps[:, 1] * box[1 + axis])
            elements.append(taps[:, 0] * prod(axes.kernel[axis + 1 :]))
            tiles.append(taps[:, 2] * prod(axes.tile[axis + 1 :]))
        numbered = [np.zeros_like(c) for c in coordinates]
        numbered[division.axis] = coordinates[division.axis]
        yield Class(
            bases=_sums([b * stride for b, stride in zip(bases, box, strict=True)]),
            places=_sums([c * stride for c, stride in zip(coordinates, whole, strict=True)]),
            numbers=_sums(numbered),
            shifts=_sums(shifts),
            elements=_sums(tiles) * prod(axes.kernel) + _sums(elements),
        )


def _sums(parts: list[Table]) -> Table:
    """Sum one entry of each part, for all combinations, flat, the last fastest."""
    total = np.zeros(1, np.int64)
    for part in parts:
        total = (total[:, None] + part).reshape(-1)
    return total
