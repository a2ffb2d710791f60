"""Tables of offsets that make c, h and g of any kernel the same sum of products.

With three axes, missing leading ones of size 1, channels last, and kernels filters last,
``(*tile, *kernel, C/groups, O)``, all three are

    D[r] (+)= sum over q of A[a_r + p_q] * B[b_q]

where D[r] and B[b_q] are rows of channels or filters, and A's elements are numbers:

    c:  r output positions      q kernel elements and channels    A = V, B = K
    h:  r input positions       q kernel elements and filters     A = G, B = K^T
    g:  r elements of K         q examples and output positions   A = V, B = G

What differs are the offsets. Positions at which they differ, by the stride's phase, the kernel of
a tile, or the padding that they meet, are the terms of a plan (`groups`). Work is divided into
blocks, whose offsets are the same (`division`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import product
from math import prod
from operator import itemgetter

import numpy as np

from convae.engine.cpu.choice import COPYING, LONG_ENOUGH, time_of_rows, time_of_runs
from convae.engine.cpu.division import (
    PADDED,
    Axes,
    Boxes,
    Division,
    Exact,
    Four,
    Table,
    Three,
    divide,
    hidden_boxes,
    visible_boxes,
)
from convae.engine.cpu.groups import (
    Class,
    classes,
    input_groups,
    input_taps,
    output_groups,
    output_taps,
)
from convae.engine.cpu.machine import PANEL_BYTES, RUN, VECTOR_BYTES, rounded
from convae.engine.cpu.rows import FIELDS, Field, Fresh, Operation
from convae.engine.geometry import Geometry

LEAST_BYTES, MOST_BYTES = 160 << 10, 768 << 10
"""Memory that a block's part of A, and of D, may take: as much as the kernel, within these bounds.

Small blocks stay in a cache; a large kernel has to be read again for every block. With few channels
to a group it takes longer to copy what a block reads than to use it, and whole examples need not be
copied.
"""

WORTH_DIVIDING = 1 << 21
"""Multiply-accumulates from which on a problem is divided."""

PART_VECTORS = 4
"""Vectors of positions that are multiplied at a time where they run along positions."""

TERM_ENTRIES = 9
"""Entries of a term: where D and A begin, its first row and step, where B begins, columns, the
distances in D and in A of the rows of a run, 0 where rows are given one by one; and how many steps,
the first ones, are in pairs that are as far apart in A as rows of a run."""

NO_RUN: Three = (0, 0, 0)
"""The last three entries of a term whose rows are given one by one."""


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
    def starts(self) -> list[int]:
        """The entries of a line that point to tables."""
        return [int(name) for name in self.tables]

    @cached_property
    def row(self) -> Table:
        """A line of this plan, whose tables begin at 0."""
        row = np.zeros(FIELDS, np.int64)
        row[Field.OPERATION] = self.operation
        for name, value in self.fields.items():
            row[name] = value
        lengths = [table.size for table in self.tables.values()]
        row[self.starts] = np.cumsum([0, *lengths])[:-1]
        return row


@lru_cache(maxsize=256)
def plan_for(
    operation: str, geometry: Geometry, C: int, O: int, examples: int, itemsize: int, blocks: int
) -> Plan:
    """Plan c, h or g of C channels and O filters, in so many blocks, if it is large enough.

    What "h by rows", "g by taps", "c along" and "h along" are, `choice` says.
    """
    ways: dict[str, Callable[[Sizes], Plan]] = {
        "c": _plan_c, "h": _plan_h, "g": _plan_g,
        "h by rows": _plan_h_by_rows, "g by taps": _plan_g_by_taps,
        "c along": partial(_plan_along, operation="c"),
        "h along": partial(_plan_along, operation="h"),
    }  # fmt: skip
    return ways[operation](Sizes(geometry, C, O, examples, itemsize, blocks))


@dataclass(frozen=True)
class Sizes:
    """Sizes of a convolution, and into how many blocks it should be divided at least."""

    geometry: Geometry
    C: int
    O: int
    examples: int
    itemsize: int
    blocks: int

    @cached_property
    def axes(self) -> Axes:
        """The geometry with three axes."""
        return Axes.of(self.geometry)

    def by_outputs(self) -> Division:
        """Divide it by output positions."""
        axes = self.axes
        numbers = max(prod(axes.read(axes.output)) * self.C, prod(axes.output) * self.O)
        return self.divide(axes.output, axes.tile, numbers)

    def divide(self, positions: Three, steps: Three, numbers: int) -> Division:
        """Divide it by positions, of which an example takes so many numbers in memory."""
        geometry = self.geometry
        kernel = prod(geometry.kernel) * self.C // geometry.groups * self.O * self.itemsize
        width = self.C // geometry.groups * self.itemsize
        is_light = geometry.groups > 1 and width <= VECTOR_BYTES
        most = MOST_BYTES if is_light else min(max(kernel, LEAST_BYTES), MOST_BYTES)
        macs = geometry.macs(self.C, self.O) * self.examples
        return divide(
            positions, steps, self.examples, numbers * self.itemsize, most,
            self.blocks if macs >= WORTH_DIVIDING else 1, any(t > 1 for t in geometry.tile),
        )  # fmt: skip

    def shared(self, A_channels: int, columns: int) -> tuple[int, int] | None:
        """Return the channels of A, and the columns, of groups that are side by side in terms.

        Columns of a single vector, of a sum that is long enough, are such a group: its rows may
        be in runs.
        """
        from convae.engine.cpu.jit import AVX512  # which imports Numba

        vector, larger = VECTOR_BYTES // self.itemsize, max(A_channels, columns)
        if self.geometry.groups == 1:
            is_one = AVX512 and columns <= vector and A_channels >= LONG_ENOUGH
            return (vector, vector) if is_one else None
        is_even = A_channels == columns and vector % columns == 0
        fits = is_even or AVX512
        return (A_channels, columns) if larger <= vector and fits else None


def _plan_c(sizes: Sizes) -> Plan:
    """Plan c: rows are output positions, steps kernel elements and channels."""
    builder, O = _Builder(sizes, sizes.by_outputs()), sizes.O
    channels, filters = builder.channels, builder.filters
    builder.share_terms(channels, filters)
    step = builder.axes.stride[2] * sizes.C
    time = partial(builder.time_of_positions, step=step, A_channels=channels, columns=filters)
    apart, boxes, chosen = builder.cheapest(builder.output_classes, time, sizes.C)
    for found in chosen:
        shifts, elements, pairs = builder.in_pairs(found, step)
        steps = (
            _outer(shifts, 1, channels, 1, pairs),
            _outer(elements, channels * O, channels, O, pairs),
        )
        apart_by = filters, channels, filters
        depths = builder.always(len(steps[0]))
        builder.terms_of_groups(found.rows, steps, depths, apart_by, pairs * 2 * channels)
    fresh = Fresh.BLOCK if apart else Fresh.ROWS
    return builder.plan(boxes, sizes.C, builder.division.span(O), fresh)


def _plan_g(sizes: Sizes) -> Plan:
    """Plan g: rows are kernel elements and channels, steps output positions."""
    builder, O = _Builder(sizes, sizes.by_outputs()), sizes.O
    axes, channels = builder.axes, builder.channels
    builder.share_terms(channels, builder.filters)

    def rows_of(found: Class) -> tuple[Table, Table, Table]:
        A_rows = _outer(found.shifts, 1, channels)
        return _outer(found.elements, channels * O, channels, O), A_rows, np.zeros_like(A_rows)

    def time(found: Class) -> float:
        return builder.time(rows_of(found), len(found.places), builder.filters)

    _, boxes, chosen = builder.cheapest(builder.output_classes, time, sizes.C)
    for found in chosen:
        rows = rows_of(found)
        steps, depths = (found.bases, found.places), builder.counts(found.numbers)
        builder.terms_of_groups(rows, steps, depths, (builder.filters, channels, builder.filters))
    _divide_G(boxes)
    every = prod(axes.tile) * prod(axes.kernel) * channels
    rows_of_D = _joined(builder.written)
    is_each_once = len(rows_of_D) == every == len(np.unique(rows_of_D))
    return builder.plan(
        boxes, sizes.C, 0, Fresh.FIRST if is_each_once else Fresh.ALL, beyond=channels - 1
    )


def _plan_g_by_taps(sizes: Sizes) -> Plan:
    """Plan g: rows are filters, steps output positions, columns the taps and channels of a row."""
    builder, axes, O = _Builder(sizes, sizes.by_outputs()), sizes.axes, sizes.O
    division, (k0, k1, k2) = builder.division, axes.kernel
    channels, filters, columns = builder.channels, builder.filters, k2 * builder.channels
    boxes = visible_boxes(axes, division, sizes.C, O, PADDED)
    counts, whole = division.box[1:], _strides(boxes.whole, channels)
    along = [output_groups(axes, axis, counts[axis], False, False) for axis in range(3)]
    (found,) = classes(axes, along, division, whole, _strides(axes.output, O))
    every = np.arange(filters)
    row = builder.add_rows(every * columns, every)
    step = builder.add_steps(found.places, found.bases)
    both = builder.always(filters), builder.counts(found.numbers)
    rows_of_kernel = product(range(builder.groups), range(k0), range(k1))
    for number, (group, m0, m1) in enumerate(rows_of_kernel):
        B = group * boxes.positions * channels
        B += m0 * axes.dilation[0] * whole[1] + m1 * axes.dilation[1] * whole[2]
        D = number * filters * columns
        builder.add_term(*both, (D, group * filters, row, step, B, columns))
    _divide_G(boxes)
    return builder.plan(boxes, sizes.C, 0, Fresh.FIRST, builder.groups)


def _divide_G(boxes: Boxes) -> None:
    """Let blocks be of G, which is B, and not of D."""
    boxes.table[:, 10], boxes.table[:, 9] = boxes.table[:, 9].copy(), 0


def _plan_h(sizes: Sizes) -> Plan:
    """Plan h: rows are input positions, steps filters at the kernel elements that they meet."""
    axes, C, O = sizes.axes, sizes.C, sizes.O
    one, two, three = (s * t for s, t in zip(axes.stride, axes.tile, strict=True))
    numbers = max(prod(axes.met(axes.size)) * O, prod(axes.size) * C)
    division = sizes.divide(axes.size, (one, two, three), numbers)
    builder = _Builder(sizes, division)
    channels, filters = builder.channels, builder.filters
    builder.share_terms(filters, channels)
    width = rounded(channels, sizes.itemsize)
    time = partial(builder.time_of_positions, step=O, A_channels=filters, columns=channels)
    apart, boxes, chosen = builder.cheapest(builder.input_classes, time, O)
    for found in chosen:
        shifts, elements, pairs = builder.in_pairs(found, O)
        A_steps = _outer(shifts, 1, filters, 1, pairs)
        B_steps = _outer(elements, O * width, filters, width, pairs)
        if builder.group and builder.groups > 1:  # rows of B are those of all groups side by side
            B_steps = _outer(elements, filters * C, filters, C, pairs)
        steps, depths = (A_steps, B_steps), builder.always(len(A_steps))
        apart_by = channels, filters, filters * width
        builder.terms_of_groups(found.rows, steps, depths, apart_by, pairs * 2 * filters)
    fresh = Fresh.BLOCK if apart else Fresh.ROWS
    return builder.plan(boxes, O, division.span(C), fresh)


def _plan_h_by_rows(sizes: Sizes) -> Plan:
    """Plan h: a term for each row of a kernel, whose rows are examples, and steps filters."""
    axes, C, O = sizes.axes, sizes.C, sizes.O
    builder = _Builder(sizes, sizes.divide(axes.size, (1, 1, 1), prod(axes.size) * C))
    division = builder.division
    boxes = hidden_boxes(axes, division, C, O, (True, True, True))
    (k0, k1, k2), (n0, n1, n2) = axes.kernel, axes.size
    examples, filters = np.arange(division.number), np.arange(O)
    row = builder.add_rows(examples * prod(axes.size) * C, examples * prod(axes.output) * O)
    width = rounded(k2 * C, sizes.itemsize)
    step = builder.add_steps(filters, filters * width)
    counts = np.arange(division.number + 1), builder.always(O)
    for number, place in enumerate(product(*map(range, axes.output))):
        sides = zip(place, axes.stride, axes.before, strict=True)
        y0, y1, y2 = (j * s - b for j, s, b in sides)
        first, last = max(0, -y2), min(k2, n2 - y2)
        for m0, m1 in product(range(k0), range(k1)):
            x0, x1 = y0 + m0 * axes.dilation[0], y1 + m1 * axes.dilation[1]
            if first < last and 0 <= x0 < n0 and 0 <= x1 < n1:
                D = ((x0 * n1 + x1) * n2 + y2 + first) * C
                B = ((number * k0 + m0) * k1 + m1) * O * width + first * C
                columns = (last - first) * C
                builder.add_term(*counts, (D, number * O, row, step, B, columns))
    return builder.plan(boxes, O, division.span(C), Fresh.BLOCK)


def _plan_along(sizes: Sizes, operation: str) -> Plan:
    """Plan c with stride 1, or h, of a shared kernel with the vectors along positions.

    The product ``M = K @ A^T``, of K or its transpose, has a row for every element of the kernel
    and channel of D, and each row of D is a sum of shifted parts of its rows.
    """
    axes, C, O, is_h = sizes.axes, sizes.C, sizes.O, operation == "h"
    many, few = (O, C) if is_h else (C, O)
    positions, stride = (axes.size, axes.stride) if is_h else (axes.output, (1, 1, 1))
    read, elements = axes.met(axes.size) if is_h else axes.read(axes.output), prod(axes.kernel)
    division = sizes.divide(positions, stride, prod(read) * (many + elements * few))
    boxes = (hidden_boxes if is_h else visible_boxes)(axes, division, C, O, PADDED)
    part = PART_VECTORS * VECTOR_BYTES // sizes.itemsize
    width, room = rounded(boxes.positions, sizes.itemsize), boxes.positions * many
    _, plane, row, _ = _strides(boxes.whole, 1)
    sums: list[tuple[int, int]] = []
    taps: list[int] = []
    for phase in product(*map(range, stride)):
        begin = len(taps)
        met = [
            input_taps(axes, axis, y, False) if is_h else output_taps(axes, axis)
            for axis, y in enumerate(phase)
        ]
        for (m0, j0, _), (m1, j1, _), (m2, j2, _) in product(*met):
            number = (m0 * axes.kernel[1] + m1) * axes.kernel[2] + m2
            taps.append(number * few * width + j0 * plane + j1 * row + j2)
        sums.append((begin, len(taps) - begin))
    steps, (of_many, of_few) = np.arange(many, dtype=np.int64), (1, O) if is_h else (O, 1)
    fields = _box_fields(boxes, many) | {
        Field.SPAN: division.span(few),
        Field.ROOM: room,
        Field.ROWS: elements * few,
        Field.WIDTH: width,
        Field.PART: part,
        Field.COLUMNS: few,
    }
    fields |= {Field.STRIDE + n: s for n, s in enumerate(stride)}
    tables = {
        Field.BLOCKS: boxes.table,
        Field.D_ROWS: np.arange(elements * few, dtype=np.int64) * width,
        Field.A_ROWS: _outer(np.arange(elements, dtype=np.int64), C * O, few, of_few),
        Field.STEPS: np.stack([steps * of_many, steps * part], axis=1),
        Field.SUMS: np.array(sums, np.int64),
        Field.TAPS: np.array(taps, np.int64),
    }
    turned = rounded(many, sizes.itemsize) * part
    scratch = PANEL_BYTES // sizes.itemsize + rounded(room, sizes.itemsize) + turned
    scratch += elements * few * width + rounded(positions[2], sizes.itemsize)
    return Plan(Operation.SPREAD, fields, tables, len(boxes.table), scratch)


def _joined(parts: list[Table]) -> Table:
    """Join tables, of which there may be none."""
    return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)


def _strides(extent: Three, channels: int) -> Four:
    """Elements from one example, plane, row and position to the next."""
    row = extent[2] * channels
    return extent[0] * extent[1] * row, extent[1] * row, row, channels


def _runs(D: Table, A: Table, numbers: Table) -> tuple[Table, Table, tuple[int, int]]:
    """Find runs: rows of D and A, and of one number, at the same distances from each to the next.

    Returns the first rows of runs, the rows that are in none, and the distances.
    """
    from convae.engine.cpu.jit import AVX512  # which imports Numba

    every = np.arange(len(D))
    if len(D) < RUN or not AVX512:  # else there are no registers for as many sums
        return every[:0], every, (0, 0)
    in_D, in_A, is_alike = np.diff(D), np.diff(A), np.diff(numbers) == 0
    both = in_D * (2 * np.abs(in_A).max() + 1) + in_A  # as one number, which sorts faster
    kinds, counts = np.unique(both[is_alike], return_counts=True)
    goes_on = is_alike & (both == kinds[counts.argmax()]) if len(kinds) else is_alike
    apart = goes_on.argmax()  # where it does so first
    if not goes_on[apart] or in_D[apart] <= 0:
        return every[:0], every, (0, 0)
    begins = np.flatnonzero(np.concatenate([[True], ~goes_on]))
    lengths = np.diff(np.append(begins, len(D)))
    places = every - np.repeat(begins, lengths)
    are_in = places < np.repeat(lengths // RUN * RUN, lengths)
    firsts = np.flatnonzero(are_in & (places % RUN == 0))
    return firsts, np.flatnonzero(~are_in), (int(in_D[apart]), int(in_A[apart]))


def _outer(positions: Table, step: int, channels: int, stride: int = 1, pairs: int = 0) -> Table:
    """Offsets of all channels at all positions; at the first ones, for each channel in pairs."""
    offsets = positions[:, None] * step + np.arange(channels) * stride
    paired = offsets[: 2 * pairs].reshape(pairs, 2, channels).swapaxes(1, 2)
    return np.concatenate([paired.reshape(-1), offsets[2 * pairs :].reshape(-1)])


def _box_fields(boxes: Boxes, channels: int) -> dict[int, int]:
    """Write the entries of a line about A and its boxes."""
    fields = {Field.SIZE + n: size for n, size in enumerate(boxes.size)}
    fields |= {Field.WHOLE + n: extent for n, extent in enumerate(boxes.whole)}
    return fields | {Field.CHANNELS: channels}


class _Builder:
    """Collects the tables of a plan."""

    def __init__(self, sizes: Sizes, division: Division) -> None:
        self.sizes, self.axes, self.division = sizes, sizes.axes, division
        self.groups, self.longest = sizes.geometry.groups, division.number
        self.channels, self.filters = sizes.C // self.groups, sizes.O // self.groups
        self.A_group = self.group = 0
        self.terms: list[tuple[int, ...]] = []
        self.rows: list[Table] = []
        self.depths: list[Table] = []
        self.written: list[Table] = []  # of D, run or not
        self.D_offsets: list[Table] = []
        self.A_offsets: list[Table] = []
        self.steps: list[Table] = []

    def cheapest(
        self,
        make: Callable[[Exact, bool], tuple[Boxes, Iterator[Class]]],
        time: Callable[[Class], float],
        A_channels: int,
    ) -> tuple[bool, Boxes, list[Class]]:
        """Choose whether padding is left out, and whether elements of a kernel are classes apart.

        Returns whether they are, the boxes and the classes.
        """
        one, two, three = (self.division.is_whole(axis) for axis in range(3))
        whole = one, two, three
        found = []
        for exact, apart in dict.fromkeys([(PADDED, False), (whole, False), (whole, True)]):
            if apart and any(t > 1 for t in self.axes.tile):
                continue  # there are few positions of a kernel already
            boxes, members = make(exact, apart)
            chosen = list(members)
            copied = 0 if exact == whole else boxes.positions * A_channels
            found.append((sum(map(time, chosen)) + COPYING * copied, apart, boxes, chosen))
        return min(found, key=itemgetter(0))[1:]

    def output_classes(self, exact: Exact, apart: bool) -> tuple[Boxes, Iterator[Class]]:
        """Return the boxes and list the classes of output positions, for c and g."""
        axes, division, C, O = self.axes, self.division, self.sizes.C, self.sizes.O
        boxes = visible_boxes(axes, division, C, O, exact)
        counts = division.box[1:]
        along = [output_groups(axes, n, counts[n], exact[n], apart) for n in range(3)]
        strides = _strides(boxes.whole, C), _strides(axes.output, O)
        return boxes, classes(axes, along, division, *strides)

    def input_classes(self, exact: Exact, apart: bool) -> tuple[Boxes, Iterator[Class]]:
        """Return the boxes and list the classes of input positions, for h."""
        axes, division, C, O = self.axes, self.division, self.sizes.C, self.sizes.O
        one, two, three = (e or is_local for e, is_local in zip(exact, axes.is_local, strict=True))
        exact = one, two, three
        boxes, counts = hidden_boxes(axes, division, C, O, exact), division.box[1:]
        along = [input_groups(axes, n, counts[n], exact[n], apart) for n in range(3)]
        strides = _strides(boxes.whole, O), _strides(axes.size, C)
        return boxes, classes(axes, along, division, *strides)

    def in_pairs(self, found: Class, apart: int) -> tuple[Table, Table, int]:
        """Return shifts and elements, first those in pairs that are so far apart; and their number.

        Where terms are those of all groups. The order is the same for all blocks.
        """
        left = {int(shift): number for number, shift in enumerate(found.shifts)}
        paired: list[int] = []
        for shift in sorted(left) if self.group else ():
            if shift in left and shift + apart in left:
                paired += [left.pop(shift), left.pop(shift + apart)]
        order = np.array([*paired, *left.values()], np.int64)
        return found.shifts[order], found.elements[order], len(paired) // 2

    def time(
        self, rows: tuple[Table, Table, Table], depth: int, columns: int, paired: int = 0
    ) -> float:
        """Estimate the time of the terms of all groups, as `terms_of_groups` appends them."""
        itemsize = self.sizes.itemsize
        if not self.group:
            return self.groups * time_of_rows(len(rows[0]), depth, columns, itemsize)
        firsts, others, _ = _runs(*rows)
        counts = len(firsts), len(others), depth, paired, self.groups
        return time_of_runs(*counts, self.A_group, columns, itemsize)

    def time_of_positions(self, found: Class, step: int, A_channels: int, columns: int) -> float:
        """Estimate it for c and h, whose rows are positions; `step` is that of pairs in A."""
        paired = self.in_pairs(found, step)[2] * 2 * A_channels if self.group else 0
        return self.time(found.rows, len(found.shifts) * A_channels, columns, paired)

    def add_rows(self, D: Table, A: Table) -> int:
        """Append rows, or the first ones of runs; returns where they begin."""
        begin = sum(map(len, self.D_offsets))
        self.D_offsets.append(D)
        self.A_offsets.append(A)
        return begin

    def add_steps(self, A: Table, B: Table) -> int:
        """Append steps; returns where they begin."""
        begin = sum(map(len, self.steps)) // 2
        self.steps.append(np.stack([A, B], axis=1).reshape(-1))
        return begin

    def always(self, count: int) -> Table:
        """Write the same count for every number but 0."""
        counts = np.full(self.longest + 1, count, np.int64)
        counts[0] = 0
        return counts

    def share_terms(self, A_channels: int, columns: int) -> None:
        """Let terms be those of all groups, if they can be."""
        if found := self.sizes.shared(A_channels, columns):
            self.A_group, self.group = found

    def counts(self, numbers: Table) -> Table:
        """How many of some rows, or positions, have a coordinate below each number."""
        found: Table = np.searchsorted(numbers, np.arange(self.longest + 1))
        return found.astype(np.int64)

    def terms_of_groups(
        self, rows: tuple[Table, Table, Table], steps: tuple[Table, Table], depths: Table,
        apart_by: tuple[int, int, int], paired: int = 0,
    ) -> None:  # fmt: skip
        """Append a term for each group of channels, which are so far apart in D, A and B.

        The groups lie side by side in rows of D, so their distance is also the columns of a term.
        Terms of all groups have rows in runs, as far as they lie so, for which the first `paired`
        steps may be in pairs. Rows of D and A have numbers along the divided axis, which decide
        whether a block has them.
        """
        D_rows, A_rows, numbers = rows
        D, A, B = apart_by
        step = self.add_steps(*steps)
        self.written.append(D_rows)
        if not self.group:
            row, counts = self.add_rows(D_rows, A_rows), self.counts(numbers)
            for n in range(self.groups):
                self.add_term(counts, depths, (n * D, n * A, row, step, n * B, D))
            return
        firsts, others, distances = _runs(D_rows, A_rows, numbers)
        are_alike = paired > 0 and steps[0][1] - steps[0][0] == distances[1]
        for some, run in ((firsts, (*distances, paired if are_alike else 0)), (others, NO_RUN)):
            if len(some):
                row, counts = self.add_rows(D_rows[some], A_rows[some]), self.counts(numbers[some])
                self.add_term(counts, depths, (0, 0, row, step, 0, self.groups * D), run)

    def add_term(
        self, rows: Table, depths: Table, entries: tuple[int, ...], run: Three = NO_RUN
    ) -> None:
        """Append a term, with its counts of rows and steps for every number."""
        self.terms.append((*entries, *run))
        self.rows.append(rows)
        self.depths.append(depths)

    def plan(
        self,
        boxes: Boxes,
        channels: int,
        span: int,
        fresh: Fresh,
        by_taps: int = 0,
        beyond: int = 0,
    ) -> Plan:
        """Put the tables together; rows of A begin up to so many numbers beyond a group's first."""
        room = boxes.positions * channels
        fields = _box_fields(boxes, channels) | {
            Field.BY_TAPS: by_taps,
            Field.SPAN: span,
            Field.FRESH: int(fresh),
            Field.ROOM: room,
            Field.TERM_COUNT: len(self.terms),
            Field.NUMBERS: self.longest + 1,
            Field.GROUP: self.group,
            Field.A_GROUP: self.A_group,
            Field.READABLE: channels - beyond,
        }
        tables = {
            Field.BLOCKS: boxes.table,
            Field.TERMS: np.array(self.terms, np.int64),
            Field.ROW_COUNTS: np.array(self.rows, np.int64),
            Field.DEPTHS: np.array(self.depths, np.int64),
            Field.D_ROWS: _joined(self.D_offsets),
            Field.A_ROWS: _joined(self.A_offsets),
            Field.STEPS: _joined(self.steps),
        }
        scratch = (PANEL_BYTES + VECTOR_BYTES) // self.sizes.itemsize + room
        return Plan(Operation.CONVOLVE, fields, tables, len(boxes.table), scratch)
