"""Tables of offsets that make c, h and g of any kernel the same sum of products.

With three axes, missing leading ones of size 1, channels last, and kernels filters last,
``(*tile, *kernel, C/groups, O)``, all three are

    D[r] (+)= sum over q of A[a_r + p_q] * B[b_q]

where D[r] and B[b_q] are rows of channels or filters, and A's elements are numbers:

    c:  r output positions      q kernel elements and channels    A = V, B = K
    h:  r input positions       q kernel elements and filters     A = G, B = K^T
    g:  r elements of K         q examples and output positions   A = V, B = G

What differs are the offsets. Positions at which they differ, by the stride's phase, the kernel of
a tile, or the group, are the terms of a plan. Work is divided into blocks, boxes of positions of
one or several examples; a block's part of A, with the padding around it, is copied to where the
offsets are the same for every block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from math import floor, prod
from typing import Any, TypeAlias

import numpy as np

from convae.engine.cpu.rows import Field, Fresh, Operation
from convae.engine.geometry import Geometry, spans

Table: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
Three: TypeAlias = tuple[int, int, int]

VECTOR_BYTES = 64
"""Bytes of a vector, which a machine with shorter registers keeps in several."""

LEAST_BYTES, MOST_BYTES = 160 << 10, 768 << 10
"""Memory that a block's part of A, and of D, may take: as much as the kernel, within these bounds.

Small blocks stay in a cache; a large kernel has to be read again for every block.
"""

WORTH_DIVIDING = 1 << 21
"""Multiply-accumulates from which on a problem is divided."""

PART_VECTORS = 4
"""Vectors of positions that are multiplied at a time where they run along positions."""

FEWEST_STEPS = 64
"""Channels of A from which on each element of a kernel has a term of its own."""

FEWEST_CHANNELS = 24
"""The same for g, whose rows they are."""

WORTH_GROUPING = 1.06
"""Products with padding, relative to the others, from which on positions that meet it are apart."""

PANEL_BYTES = 32 << 10
"""Memory for the rows of B that a pass over the rows of A reuses, of an L1 cache."""

LOCAL_EXAMPLES = 16
"""Examples of a block where every position has a kernel of its own."""


@dataclass(frozen=True)
class Plan:
    """A problem, all but where its arrays lie, as a line of a list of calls.

    Parameters
    ----------
    operation : Operation
        CONVOLVE or SPREAD.
    fields : mapping of Field to int
        The line's numbers.
    tables : mapping of Field to ndarray
        The tables at whose beginnings other entries of the line point.
    blocks : int
        How many blocks there are.
    scratch : int
        Elements of scratch memory that it takes.
    """

    operation: Operation
    fields: dict[int, int]
    tables: dict[Field, Table]
    blocks: int
    scratch: int

    @cached_property
    def table(self) -> Table:
        """All tables, end to end."""
        return np.concatenate([table.reshape(-1) for table in self.tables.values()])

    @cached_property
    def starts(self) -> dict[int, int]:
        """Where in `table` each begins."""
        lengths = [table.size for table in self.tables.values()]
        return dict(zip(self.tables, np.cumsum([0, *lengths]).tolist(), strict=False))


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

        def three(entries: Any, filling: int = 1) -> Three:
            first, second, third = (filling,) * (3 - geometry.axes) + tuple(entries)
            return first, second, third

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


@dataclass(frozen=True)
class Division:
    """How the positions of D, for g those of G, are divided into blocks.

    Parameters
    ----------
    axis : int
        The divided axis: 0 for examples, 1 and 2 for the first two axes of positions.
    number : int
        How many along that axis are a block.
    total : int
        How many there are.
    positions : tuple of int
        Positions of an example.
    """

    axis: int
    number: int
    total: int
    positions: Three

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Examples and positions of a block."""
        full = [1, *self.positions]
        for axis in range(1, self.axis):
            full[axis] = 1
        full[self.axis] = self.number
        return full[0], full[1], full[2], full[3]

    def span(self, channels: int) -> int:
        """Elements of an array with these positions, per number."""
        return prod(self.positions[self.axis :]) * channels

    def origins(self, examples: int) -> list[tuple[int, int, int, int]]:
        """List (example, first positions along two axes, number) of all blocks."""
        starts = range(0, self.total, self.number)
        if self.axis == 0:
            return [(e, 0, 0, min(self.number, self.total - e)) for e in starts]
        ends = [(first, min(self.number, self.total - first)) for first in starts]
        if self.axis == 1:
            return [(e, first, 0, n) for e in range(examples) for first, n in ends]
        planes = product(range(examples), range(self.positions[0]))
        return [(e, j0, first, n) for e, j0 in planes for first, n in ends]


def divide(
    positions: Three, steps: Three, examples: int, example_bytes: int, kernel_bytes: int,
    wanted: int, whole: bool,
) -> Division:
    """Divide a problem: examples as long as they are small and many, else rows of positions.

    There will be as many blocks as `wanted`, if there are so many rows; `steps` are what numbers of positions must be multiples of; `whole` keeps examples undivided.
    """
    if whole:
        return Division(0, min(examples, LOCAL_EXAMPLES), examples, positions)
    block_bytes = min(max(kernel_bytes, LEAST_BYTES), MOST_BYTES)
    if example_bytes <= block_bytes and (examples >= wanted or prod(positions[:2]) == 1):
        number = min(block_bytes // example_bytes, -(-examples // wanted))
        return Division(0, _even(examples, number, 1), examples, positions)
    axis = 1 if positions[0] > 1 else 2
    total = positions[axis - 1]
    number = min(
        total * block_bytes // example_bytes if axis == 2 or positions[0] > 1 else total,
        -(-total // -(-wanted // examples)),
    )
    return Division(axis, min(_even(total, number, steps[axis - 1]), total), total, positions)


def _even(total: int, number: int, step: int) -> int:
    """Reduce a number, to a multiple of the step, so that blocks are about equally long."""
    number = max(number // step, 1) * step
    equal = -(-total // -(-total // number))
    return min(number, -(-equal // step) * step)


def rounded(count: int, itemsize: int) -> int:
    """Round up to whole vectors."""
    vector = VECTOR_BYTES // itemsize
    return -(-count // vector) * vector


def _strides(extent: Three, channels: int) -> tuple[int, int, int, int]:
    """Elements from one example, plane, row and position to the next."""
    row = extent[2] * channels
    return extent[0] * extent[1] * row, extent[1] * row, row, channels


class _Builder:
    """Collects the tables of a plan."""

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self.terms: list[tuple[int, ...]] = []
        self.rows: list[Table] = []
        self.depths: list[Table] = []
        self.D_offsets: list[Table] = []
        self.A_offsets: list[Table] = []
        self.steps: list[Table] = []
        self.row_count = self.step_count = 0

    def add_rows(self, D: Table, A: Table) -> int:
        """Append rows; returns where they begin."""
        begin, self.row_count = self.row_count, self.row_count + len(D)
        self.D_offsets.append(D)
        self.A_offsets.append(A)
        return begin

    def add_steps(self, A: Table, B: Table) -> int:
        """Append steps; returns where they begin."""
        begin, self.step_count = self.step_count, self.step_count + len(A)
        self.steps.append(np.stack([A, B], axis=1).reshape(-1))
        return begin

    def always(self, count: int) -> Table:
        """The same count for every number but 0."""
        counts = np.full(self.longest + 1, count, np.int64)
        counts[0] = 0
        return counts

    def term(
        self, rows: Table, depths: Table, row: int, step: int, *, D: int, A: int, B: int,
        columns: int,
    ) -> None:  # fmt: skip
        """Append a term."""
        self.terms.append((D, A, row, step, B, columns))
        self.rows.append(rows)
        self.depths.append(depths)

    def plan(
        self, boxes: Boxes, channels: int, span: int, fresh: Fresh, itemsize: int
    ) -> Plan:
        """Put the tables together."""

        def joined(parts: list[Table]) -> Table:
            return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)

        room = boxes.examples * prod(boxes.whole) * channels
        fields = boxes.fields(channels) | {
            Field.SPAN: span,
            Field.FRESH: int(fresh),
            Field.ROOM: room,
            Field.TERM_COUNT: len(self.terms),
            Field.NUMBERS: self.longest + 1,
        }
        tables = {
            Field.BLOCKS: boxes.table(11),
            Field.TERMS: np.array(self.terms, np.int64),
            Field.ROW_COUNTS: np.array(self.rows, np.int64),
            Field.DEPTHS: np.array(self.depths, np.int64),
            Field.D_ROWS: joined(self.D_offsets),
            Field.A_ROWS: joined(self.A_offsets),
            Field.STEPS: joined(self.steps),
        }
        scratch = PANEL_BYTES // itemsize + room
        return Plan(Operation.CONVOLVE, fields, tables, len(boxes.blocks), scratch)


@dataclass(frozen=True)
class Boxes:
    """The boxes of A that blocks copy.

    Parameters
    ----------
    size : tuple of int
        Positions of an example of A.
    whole : tuple of int
        Extent of the largest box.
    examples : int
        Examples of the largest.
    blocks : list of list of int
        Number along the divided axis; where A begins, examples; start of the box; its extent;
        where D begins; where B begins, or D's planes and rows.
    """

    size: Three
    whole: Three
    examples: int
    blocks: list[list[int]]

    def fields(self, channels: int) -> dict[int, int]:
        """The entries of a line about A."""
        three = {Field.SIZE + n: size for n, size in enumerate(self.size)}
        three |= {Field.WHOLE + n: extent for n, extent in enumerate(self.whole)}
        return three | {Field.CHANNELS: channels}

    def table(self, width: int) -> Table:
        """The blocks as a table."""
        return np.array(self.blocks, np.int64).reshape(-1, width)


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
        for some in ([(tap,) for tap in taps] if apart else [taps]):
            members.setdefault(some, []).append(place)
    return [
        Group(tuple(places), tuple(found[place][0] for place in places), taps)
        for taps, places in members.items()
    ]


def output_groups(axes: Axes, axis: int, count: int, whole: bool, apart: bool) -> list[Group]:
    """Group `count` output positions of an axis, for c and g.

    Where they are the `whole` axis, padding is left out if taps are `apart`, or much of it is met.
    """
    k, s, d = axes.kernel[axis], axes.stride[axis], axes.dilation[axis]
    before, size, tile = axes.before[axis], axes.size[axis], axes.tile[axis]

    def taps(j: int, is_exact: bool) -> tuple[Three, ...]:
        inside = (m for m in range(k) if not is_exact or 0 <= j * s - before + m * d < size)
        return tuple((m, m * d, j % tile) for m in inside)

    exact = [taps(j, True) for j in range(count)]
    is_exact = whole and (apart or sum(map(len, exact)) * WORTH_GROUPING < count * k)
    return _grouped([(j * s, taps(j, is_exact)) for j in range(count)], apart)


def input_groups(
    axes: Axes, axis: int, count: int, reach: int, whole: bool, apart: bool
) -> list[Group]:
    """Group `count` input positions of an axis, for h, the first a multiple of stride and tile."""
    k, s, d = axes.kernel[axis], axes.stride[axis], axes.dilation[axis]
    before, output, tile = axes.before[axis], axes.output[axis], axes.tile[axis]

    def taps(y: int, is_exact: bool) -> tuple[Three, ...]:
        met = ((m, (y + before - m * d) // s) for m in range(k) if (y + before - m * d) % s == 0)
        return tuple(
            (m, j - y // s - reach, j % tile) for m, j in met if not is_exact or 0 <= j < output
        )

    exact, every = ([taps(y, is_exact) for y in range(count)] for is_exact in (True, False))
    needless = sum(map(len, exact)) * WORTH_GROUPING < sum(map(len, every))
    is_exact = axes.is_local[axis] or (whole and (apart or needless))
    return _grouped([(y // s, taps(y, is_exact)) for y in range(count)], apart)


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

    def counts(self, longest: int) -> Table:
        """How many positions have a coordinate below each number."""
        return np.searchsorted(self.numbers, np.arange(longest + 1)).astype(np.int64)


def _classes(
    axes: Axes, groups: list[list[Group]], division: Division,
    box: tuple[int, int, int, int], whole: tuple[int, int, int, int],
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


def _outer(positions: Table, step: int, channels: int, stride: int = 1) -> Table:
    """Offsets of all channels at all positions."""
    return (positions[:, None] * step + np.arange(channels) * stride).reshape(-1)


@lru_cache(maxsize=512)
def plan_for(
    operation: str, geometry: Geometry, C: int, O: int, examples: int, itemsize: int, blocks: int
) -> Plan:
    """Plan c, h or g of C channels and O filters, in so many blocks, if it is large enough."""
    make = {"c": _plan_outputs, "g": _plan_outputs, "h": _plan_h}[operation]
    return make(operation, geometry, C, O, examples, itemsize, blocks)


def _plan_outputs(
    operation: str, geometry: Geometry, C: int, O: int, examples: int, itemsize: int, blocks: int
) -> Plan:
    """Plan c, whose rows are output positions and whose steps kernel elements, or g, the reverse."""
    axes, groups = Axes.of(geometry), geometry.groups
    padded = ((n - 1) * s + k for n, s, k in zip(axes.output, axes.stride, axes.span, strict=True))
    example_bytes = max(prod(padded) * C, prod(axes.output) * O) * itemsize
    is_tiled = any(t > 1 for t in axes.tile)
    kernel_bytes = prod(geometry.kernel) * C // geometry.groups * O * itemsize
    wanted = blocks if geometry.macs(C, O) * examples >= WORTH_DIVIDING else 1
    division = divide(axes.output, axes.tile, examples, example_bytes, kernel_bytes, wanted, is_tiled)
    boxes = _visible_boxes(axes, division, C, O, examples)
    builder, channels, filters = _Builder(division.number), C // groups, O // groups
    apart = channels >= (FEWEST_STEPS if operation == "c" else FEWEST_CHANNELS)
    along = [
        output_groups(
            axes, axis, n, division.axis != axis + 1 and n == axes.output[axis], apart
        )
        for axis, n in enumerate(division.box[1:])
    ]
    strides = _strides(boxes.whole, C), _strides(axes.output, O)
    for found in _classes(axes, along, division, *strides):
        places = found.bases, found.places
        elements = (
            _outer(found.shifts, 1, channels),
            _outer(found.elements, channels * O, channels, O),
        )
        if operation == "c":
            row, step = builder.add_rows(*reversed(places)), builder.add_steps(*elements)
            rows, depths = found.counts(division.number), builder.always(len(elements[0]))
        else:
            row, step = builder.add_rows(*reversed(elements)), builder.add_steps(*places)
            rows, depths = builder.always(len(elements[0])), found.counts(division.number)
        for group in range(groups):
            builder.term(
                rows, depths, row, step,
                D=group * filters, A=group * channels, B=group * filters, columns=filters,
            )  # fmt: skip
    if operation == "g":
        for block in boxes.blocks:
            block[9], block[10] = 0, block[9]
    fresh = Fresh.BLOCK if apart else Fresh.ROWS
    if operation == "g":
        every = prod(axes.tile) * prod(axes.kernel) * channels
        is_each_once = builder.row_count == every == len(np.unique(np.concatenate(builder.D_offsets)))
        fresh = Fresh.FIRST if is_each_once else Fresh.ALL
    return builder.plan(boxes, C, division.span(O), fresh, itemsize)


def _visible_boxes(axes: Axes, division: Division, C: int, O: int, examples: int) -> Boxes:
    """Return the boxes of V that blocks of output positions read; D is Z."""

    def extent(counts: tuple[int, ...]) -> Three:
        one, two, three = (
            (n - 1) * s + k for n, s, k in zip(counts, axes.stride, axes.span, strict=True)
        )
        return one, two, three

    blocks = []
    for e, j0, j1, n in division.origins(examples):
        counts = list(division.box)
        counts[division.axis] = n
        start = [j * s - b for j, s, b in zip((j0, j1, 0), axes.stride, axes.before, strict=True)]
        place = ((e * axes.output[0] + j0) * axes.output[1] + j1) * axes.output[2] * O
        v = e * prod(axes.size) * C
        blocks.append([n, v, counts[0], *start, *extent(tuple(counts[1:])), place, 0])
    return Boxes(axes.size, extent(division.box[1:]), division.box[0], blocks)


def _reach(axes: Axes) -> Three:
    """First position of G, along each axis, that meets position 0 of V, if there is one."""
    one, two, three = (
        floor((b - k + 1) / s)
        for b, k, s in zip(axes.before, axes.span, axes.stride, strict=True)
    )
    return one, two, three


def _met(axes: Axes, reach: Three, counts: tuple[int, ...]) -> Three:
    """Positions of G, from `reach` on, that may meet so many of V."""
    one, two, three = (
        (n - 1 + b) // s - q + 1
        for n, b, s, q in zip(counts, axes.before, axes.stride, reach, strict=True)
    )
    return one, two, three


def _hidden_boxes(axes: Axes, division: Division, C: int, O: int, examples: int) -> Boxes:
    """Return the boxes of G that blocks of input positions read; D is V'."""
    reach, blocks = _reach(axes), []
    for e, y0, y1, n in division.origins(examples):
        counts = list(division.box)
        counts[division.axis] = n
        start = [y // s + q for y, s, q in zip((y0, y1, 0), axes.stride, reach, strict=True)]
        place = ((e * axes.size[0] + y0) * axes.size[1] + y1) * axes.size[2] * C
        extent = _met(axes, reach, tuple(counts[1:]))
        g = e * prod(axes.output) * O
        blocks.append([n, g, counts[0], *start, *extent, place, *counts[1:3]])
    whole = _met(axes, reach, division.box[1:])
    return Boxes(axes.output, whole, division.box[0], blocks)


def _plan_h(
    operation: str, geometry: Geometry, C: int, O: int, examples: int, itemsize: int, blocks: int
) -> Plan:
    """Plan h: rows are input positions, steps filters at the kernel elements that they meet."""
    axes, groups = Axes.of(geometry), geometry.groups
    reach = _reach(axes)
    one, two, three = (s * t for s, t in zip(axes.stride, axes.tile, strict=True))
    example_bytes = max(prod(_met(axes, reach, axes.size)) * O, prod(axes.size) * C) * itemsize
    is_tiled = any(t > 1 for t in axes.tile)
    kernel_bytes = prod(geometry.kernel) * C // geometry.groups * O * itemsize
    wanted = blocks if geometry.macs(C, O) * examples >= WORTH_DIVIDING else 1
    division = divide(axes.size, (one, two, three), examples, example_bytes, kernel_bytes, wanted, is_tiled)
    boxes = _hidden_boxes(axes, division, C, O, examples)
    for block in boxes.blocks:
        block[10:] = [0]
    builder, channels, filters = _Builder(division.number), C // groups, O // groups
    width = rounded(channels, itemsize)
    apart = filters >= FEWEST_STEPS
    along = [
        input_groups(
            axes, axis, n, reach[axis], division.axis != axis + 1 and n == axes.size[axis], apart
        )
        for axis, n in enumerate(division.box[1:])
    ]
    strides = _strides(boxes.whole, O), _strides(axes.size, C)
    for found in _classes(axes, along, division, *strides):
        row = builder.add_rows(found.places, found.bases)
        A_steps = _outer(found.shifts, 1, filters)
        step = builder.add_steps(A_steps, _outer(found.elements, O * width, filters, width))
        for group in range(groups):
            builder.term(
                found.counts(division.number), builder.always(len(A_steps)), row, step,
                D=group * channels, A=group * filters, B=group * filters * width,
                columns=channels,
            )  # fmt: skip
    fresh = Fresh.BLOCK if apart else Fresh.ROWS
    return builder.plan(boxes, O, division.span(C), fresh, itemsize)


@lru_cache(maxsize=256)
def narrow_plan_for(
    geometry: Geometry, C: int, O: int, examples: int, itemsize: int, blocks: int
) -> Plan:
    """Plan h of a shared kernel to few channels, with the vectors along positions.

    The product ``M = K @ G^T`` has a row for every element of the kernel, and each row of V' is a
    sum of shifted parts of its rows.
    """
    axes, elements = Axes.of(geometry), prod(geometry.kernel)
    reach = _reach(axes)
    example_bytes = prod(_met(axes, reach, axes.size)) * (O + elements * C) * itemsize
    kernel_bytes = prod(geometry.kernel) * C // geometry.groups * O * itemsize
    wanted = blocks if geometry.macs(C, O) * examples >= WORTH_DIVIDING else 1
    division = divide(axes.size, axes.stride, examples, example_bytes, kernel_bytes, wanted, False)
    boxes = _hidden_boxes(axes, division, C, O, examples)
    part = PART_VECTORS * VECTOR_BYTES // itemsize
    width = rounded(boxes.examples * prod(boxes.whole), itemsize)
    _, plane, row, _ = _strides(boxes.whole, 1)
    phases = [
        input_groups(axes, axis, stride, reach[axis], False, False)
        for axis, stride in enumerate(axes.stride)
    ]
    by_phase = [
        sorted(((p, group.taps) for group in groups for p in group.places)) for groups in phases
    ]
    sums, taps = [], []
    for (_, one), (_, two), (_, three) in product(*by_phase):
        begin = len(taps)
        for (m0, j0, _), (m1, j1, _), (m2, j2, _) in product(one, two, three):
            number = (m0 * axes.kernel[1] + m1) * axes.kernel[2] + m2
            taps.append(number * C * width + j0 * plane + j1 * row + j2)
        sums.append((begin, len(taps) - begin))
    filters, rows = np.arange(O, dtype=np.int64), np.arange(elements * C, dtype=np.int64)
    room = boxes.examples * prod(boxes.whole) * O
    fields = boxes.fields(O) | {
        Field.SPAN: division.span(C),
        Field.ROOM: room,
        Field.ROWS: elements * C,
        Field.WIDTH: width,
        Field.PART: part,
        Field.COLUMNS: C,
        Field.POSITIONS: axes.size[2],
    }
    fields |= {Field.STRIDE + n: stride for n, stride in enumerate(axes.stride)}
    tables = {
        Field.BLOCKS: boxes.table(12),
        Field.D_ROWS: rows * width,
        Field.A_ROWS: rows * O,
        Field.STEPS: np.stack([filters, filters * part], axis=1),
        Field.SUMS: np.array(sums, np.int64),
        Field.TAPS: np.array(taps, np.int64),
    }
    turned = rounded(O, itemsize) * part
    scratch = PANEL_BYTES // itemsize + rounded(room, itemsize) + turned
    scratch += elements * C * width + rounded(axes.size[2], itemsize)
    return Plan(Operation.SPREAD, fields, tables, len(boxes.blocks), scratch)
