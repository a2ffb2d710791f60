"""How a problem is divided into blocks, and the boxes of positions that blocks read.

A block is a box of positions of D, for g of G, in one or several examples. What it reads is a box
of A, with the padding around it unless that is left out. Where it is not within A, it is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product
from math import floor, prod
from typing import Any, TypeAlias

import numpy as np

from convae.engine.cpu.machine import THREADS
from convae.engine.cpu.rows import Field
from convae.engine.geometry import Geometry, spans

Table: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
Three: TypeAlias = tuple[int, int, int]
Four: TypeAlias = tuple[int, int, int, int]

Exact: TypeAlias = tuple[bool, bool, bool]
"""Whether blocks read nothing but A along an axis, all of it, and leave the padding out."""

PADDED: Exact = (False, False, False)

LOCAL_EXAMPLES = 16
"""Examples of a block where positions have kernels of their own."""


def three(entries: Iterable[int], filling: int = 1) -> Three:
    """Lift what there is for each axis to three axes, the added ones first."""
    *_, first, second, third = filling, filling, *entries
    return first, second, third


@dataclass(frozen=True)
class Axes:
    """A geometry with three axes, and where the positions of a padded input lie."""

    size: Three
    output: Three
    kernel: Three
    stride: Three
    dilation: Three
    tile: Three
    before: Three
    span: Three

    @classmethod
    def of(cls, geometry: Geometry) -> Axes:
        """Lift a geometry."""
        return cls(
            three(geometry.size),
            three(geometry.output),
            three(geometry.kernel),
            three(geometry.stride),
            three(geometry.dilation),
            three(geometry.tile),
            three((before for before, _ in geometry.padding), 0),
            three(spans(geometry.kernel, geometry.dilation)),
        )

    @property
    def is_local(self) -> tuple[bool, bool, bool]:
        """Whether every output position of an axis has a kernel of its own."""
        one, two, three = (t == n > 1 for t, n in zip(self.tile, self.output, strict=True))
        return one, two, three

    @property
    def reach(self) -> Three:
        """First position of G, along each axis, that meets position 0 of V, if there is one."""
        sides = zip(self.before, self.span, self.stride, strict=True)
        one, two, three = (floor((b - k + 1) / s) for b, k, s in sides)
        return one, two, three

    def read(self, counts: tuple[int, ...]) -> Three:
        """Positions of the padded V that so many of Z read."""
        sides = zip(counts, self.stride, self.span, strict=True)
        one, two, three = ((n - 1) * s + k for n, s, k in sides)
        return one, two, three

    def met(self, counts: tuple[int, ...]) -> Three:
        """Positions of G, from `reach` on, that may meet so many of V."""
        sides = zip(counts, self.before, self.stride, self.reach, strict=True)
        one, two, three = ((n - 1 + b) // s - q + 1 for n, b, s, q in sides)
        return one, two, three

    def boxed(self, operation: str) -> tuple[Three, Three]:
        """Positions of D, and of the box of A that they may all meet, for c or h."""
        if operation == "h":
            return self.size, self.met(self.size)
        return self.output, self.read(self.output)


@dataclass(frozen=True)
class Division:
    """How examples and positions are divided into blocks.

    Parameters
    ----------
    axis : int
        The divided axis: 0 for examples, 1 to 3 for an axis of positions. Blocks are a single
        index along the axes before it, and the whole of those behind it.
    number : int
        How many along that axis are a block; the last may be shorter.
    examples : int
        Of the batch.
    positions : tuple of int
        Of an example.
    """

    axis: int
    number: int
    examples: int
    positions: Three

    @property
    def box(self) -> Four:
        """Examples and positions of the largest block."""
        return self._box(self.number)

    def is_whole(self, axis: int) -> bool:
        """Whether blocks have all positions along an axis of positions."""
        return self.box[axis + 1] == self.positions[axis]

    def span(self, channels: int) -> int:
        """Elements of an array with these positions, per number."""
        return prod(self.positions[self.axis :]) * channels

    def blocks(self) -> list[tuple[Four, Four]]:
        """List where blocks begin, example and positions, and how many of each they have."""
        shape = (self.examples, *self.positions)
        places = [range(n) for n in shape[: self.axis]]
        found = []
        for before in product(*places):
            for first in range(0, shape[self.axis], self.number):
                e, j0, j1, j2 = [*before, first, 0, 0, 0][:4]
                count = min(self.number, shape[self.axis] - first)
                found.append(((e, j0, j1, j2), self._box(count)))
        return found

    def _box(self, count: int) -> Four:
        shape = [self.examples, *self.positions]
        shape[: self.axis + 1] = [*(1 for _ in range(self.axis)), count]
        e, n0, n1, n2 = shape
        return e, n0, n1, n2


def divide(
    positions: Three, steps: Three, examples: int, example_bytes: int, most: int, wanted: int,
    is_tiled: bool, is_copied: bool,
) -> Division:  # fmt: skip
    """Divide a problem: into examples where they are small and many, else along positions.

    There will be as many blocks as `wanted`, if there are so many positions, and one takes at most
    so many bytes. `steps` are what numbers of positions must be multiples of; where kernels are
    tiled, examples stay whole. Planes may be larger, unless what a block reads `is_copied` anyway:
    several of them lie in place, where rows of several do not.
    """
    if is_tiled:
        return Division(0, min(examples, LOCAL_EXAMPLES), examples, positions)
    if example_bytes <= most and (examples >= wanted or prod(positions) == 1):
        number = min(most // example_bytes, -(-examples // wanted))
        return Division(0, _balanced(examples, number, 1, 1, wanted), examples, positions)
    others, per = examples, example_bytes
    for axis, total in enumerate(positions, start=1):
        per = -(-per // total)
        is_small = per <= most or steps[axis - 1] > 1  # single positions would be no multiples
        is_in_place = axis == 1 and others * total >= wanted and not is_copied
        if axis == 3 or (total > 1 and (is_small or is_in_place)):
            break
        others *= total
    number = min(most // per, -(-total // -(-wanted // others)))
    number = _balanced(total, number, steps[axis - 1], others, wanted)
    return Division(axis, number, examples, positions)


def _balanced(total: int, number: int, step: int, others: int, wanted: int) -> int:
    """Reduce a number, a multiple of the step or all, so that threads are busy equally long.

    There are as many blocks of so many for each of `others`; at least half the number is kept. A
    thread that has the problem for itself wants one block, and is busy for as many as there are.
    """
    most = max(number // step, 1) * step

    def busy(n: int) -> int:
        blocks = -(-total // n) * others
        return sum(n * -(-blocks // t) * t for t in (THREADS if wanted > 1 else (1,)))

    return min(min(range(most, most // 2, -step), key=busy), total)


@dataclass(frozen=True)
class Boxes:
    """The boxes of A that blocks read.

    Parameters
    ----------
    size : tuple of int
        Positions of an example of A.
    whole : tuple of int
        Extent of the largest box.
    examples : int
        Examples of the largest.
    table : (M, BLOCK_ENTRIES) ndarray
        The blocks.
    """

    size: Three
    whole: Three
    examples: int
    table: Table

    @property
    def positions(self) -> int:
        """Positions of the largest, in all examples."""
        return self.examples * prod(self.whole)

    def fields(self, channels: int) -> dict[int, int]:
        """Write the entries of a line about A and its boxes."""
        fields = {Field.SIZE + n: size for n, size in enumerate(self.size)}
        fields |= {Field.WHOLE + n: extent for n, extent in enumerate(self.whole)}
        return fields | {Field.CHANNELS: channels}


def visible_boxes(axes: Axes, division: Division, C: int, O: int, exact: Exact) -> Boxes:
    """Return the boxes of V that blocks of output positions read; D is Z."""

    def start(j: tuple[int, ...]) -> list[int]:
        sides = zip(j, axes.stride, axes.before, exact, strict=True)
        return [0 if is_exact else x * s - b for x, s, b, is_exact in sides]

    def extent(counts: tuple[int, ...]) -> Three:
        return _chosen(exact, axes.size, axes.read(counts))

    return _boxes(division, axes.size, C, O, start, extent)


def hidden_boxes(axes: Axes, division: Division, C: int, O: int, exact: Exact) -> Boxes:
    """Return the boxes of G that blocks of input positions read; D is V'."""

    def start(y: tuple[int, ...]) -> list[int]:
        sides = zip(y, axes.stride, axes.reach, exact, strict=True)
        return [0 if is_exact else x // s + q for x, s, q, is_exact in sides]

    def extent(counts: tuple[int, ...]) -> Three:
        return _chosen(exact, axes.output, axes.met(counts))

    return _boxes(division, axes.output, O, C, start, extent)


def _chosen(exact: Exact, size: Three, read: Three) -> Three:
    """Take the size along axes that are exact, else what is read."""
    one, two, three = (s if e else r for e, s, r in zip(exact, size, read, strict=True))
    return one, two, three


def _boxes(
    division: Division, size: Three, A_channels: int, D_channels: int,
    start: Callable[[tuple[int, ...]], list[int]], extent: Callable[[tuple[int, ...]], Three],
) -> Boxes:  # fmt: skip
    """Write the boxes of A, whose examples have this size, that blocks of D's positions read."""
    blocks = []
    for (e, *first), (examples, *counts) in division.blocks():
        where, many = tuple(first), tuple(counts)
        place = _flat((e, *where), division.positions) * D_channels
        begin = e * prod(size) * A_channels
        number = (examples, *many)[division.axis]
        blocks.append([number, begin, examples, *start(where), *extent(many), place, 0, *many])
    table = np.array(blocks, np.int64)
    return Boxes(size, extent(division.box[1:]), division.box[0], table)


def _flat(place: tuple[int, ...], positions: Three) -> int:
    """Return the number of a position in a batch."""
    total, *others = place
    for index, count in zip(others, positions, strict=True):
        total = total * count + index
    return total


def strides(extent: Three, channels: int) -> Four:
    """Elements from one example, plane, row and position to the next."""
    row = extent[2] * channels
    return extent[0] * extent[1] * row, extent[1] * row, row, channels
