"""What collects the tables of a plan: terms, with rows and steps, for all groups of channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from math import prod
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from convae.engine.cpu.choice import (
    COPYING,
    LONG_ENOUGH,
    longest_chain,
    time_of_rows,
    time_of_runs,
)
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
    strides,
    visible_boxes,
)
from convae.engine.cpu.groups import Class, classes, input_groups, output_groups
from convae.engine.cpu.machine import PANEL_BYTES, RUN, VECTOR_BYTES
from convae.engine.cpu.plan import Plan
from convae.engine.cpu.rows import Field, Fresh, Operation
from convae.engine.geometry import Geometry

LEAST_BYTES, MOST_BYTES = 160 << 10, 768 << 10
"""Memory that a block's part of A, and of D, may take: as much as the kernel, within these bounds.

Small blocks stay in a cache; a large kernel has to be read again for every block. With few channels
to a group it takes longer to copy what a block reads than to use it, and whole examples need not be
copied.
"""

WORTH_DIVIDING = 1 << 21
"""Multiply-accumulates from which on a problem is divided."""

NO_RUN: Four = (0, 0, 0, 0)
"""The last entries of a term whose rows are given one by one."""


class Chains(NamedTuple):
    """How many threes, and pairs, of steps are as far apart in A as rows of a run."""

    threes: int = 0
    pairs: int = 0

    def of(self, channels: int) -> Chains:
        """Of steps that have so many channels each."""
        return Chains(self.threes * channels, self.pairs * channels)

    @property
    def steps(self) -> tuple[int, int]:
        """How many steps are in threes, and in pairs."""
        return 3 * self.threes, 2 * self.pairs


NO_CHAINS = Chains()


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

    def divide(
        self, positions: Three, steps: Three, numbers: int, is_copied: bool = False
    ) -> Division:
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
            is_copied,
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


class Builder:
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
        apart_by = strides(boxes.whole, C), strides(axes.output, O)
        return boxes, classes(axes, along, division, *apart_by)

    def input_classes(self, exact: Exact, apart: bool) -> tuple[Boxes, Iterator[Class]]:
        """Return the boxes and list the classes of input positions, for h."""
        axes, division, C, O = self.axes, self.division, self.sizes.C, self.sizes.O
        one, two, three = (e or is_local for e, is_local in zip(exact, axes.is_local, strict=True))
        exact = one, two, three
        boxes, counts = hidden_boxes(axes, division, C, O, exact), division.box[1:]
        along = [input_groups(axes, n, counts[n], exact[n], apart) for n in range(3)]
        apart_by = strides(boxes.whole, O), strides(axes.size, C)
        return boxes, classes(axes, along, division, *apart_by)

    def in_chains(self, found: Class, apart: int) -> tuple[Table, Table, Chains]:
        """Return shifts and elements, first those in chains that are so far apart; and the chains.

        Where terms are those of all groups. The order is the same for all blocks.
        """
        if not self.group:
            return found.shifts, found.elements, NO_CHAINS
        left = {int(shift): number for number, shift in enumerate(found.shifts)}
        vector = VECTOR_BYTES // self.sizes.itemsize
        reach = apart * longest_chain(self.A_group, self.group, vector)
        threes: list[int] = []
        pairs: list[int] = []
        for shift in sorted(left):
            chain = [*takewhile(left.__contains__, range(shift, shift + reach, apart))]
            if len(chain) > 1:
                (threes if len(chain) == 3 else pairs).extend(map(left.pop, chain))
        order = np.array([*threes, *pairs, *left.values()], np.int64)
        return found.shifts[order], found.elements[order], Chains(len(threes) // 3, len(pairs) // 2)

    def time(
        self, rows: tuple[Table, Table, Table], depth: int, columns: int, chains: Chains = NO_CHAINS
    ) -> float:
        """Estimate the time of the terms of all groups, as `terms_of_groups` appends them."""
        itemsize = self.sizes.itemsize
        if not self.group:
            return self.groups * time_of_rows(len(rows[0]), depth, columns, itemsize)
        firsts, others, _ = _runs(*rows)
        spared = 2 * chains.threes + chains.pairs
        counts = len(firsts), len(others), depth, spared, self.groups
        return time_of_runs(*counts, self.A_group, columns, itemsize)

    def time_of_positions(self, found: Class, step: int, A_channels: int, columns: int) -> float:
        """Estimate it for c and h, whose rows are positions; `step` is that of chains in A."""
        chains = self.in_chains(found, step)[2].of(A_channels)
        return self.time(found.rows, len(found.shifts) * A_channels, columns, chains)

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
        apart_by: tuple[int, int, int], chains: Chains = NO_CHAINS,
    ) -> None:  # fmt: skip
        """Append a term for each group of channels, which are so far apart in D, A and B.

        The groups lie side by side in rows of D, so their distance is also the columns of a term.
        Terms of all groups have rows in runs, as far as they lie so, for which the first steps may
        be in chains. Rows of D and A have numbers along the divided axis, which decide
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
        are_alike = any(chains) and steps[0][1] - steps[0][0] == distances[1]
        in_chains = (chains if are_alike else NO_CHAINS).steps
        for some, run in ((firsts, (*distances, *in_chains)), (others, NO_RUN)):
            if len(some):
                row, counts = self.add_rows(D_rows[some], A_rows[some]), self.counts(numbers[some])
                self.add_term(counts, depths, (0, 0, row, step, 0, self.groups * D), run)

    def add_term(
        self, rows: Table, depths: Table, entries: tuple[int, ...], run: Four = NO_RUN
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
        fields = boxes.fields(channels) | {
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
            Field.D_ROWS: joined(self.D_offsets),
            Field.A_ROWS: joined(self.A_offsets),
            Field.STEPS: joined(self.steps),
        }
        scratch = (PANEL_BYTES + VECTOR_BYTES) // self.sizes.itemsize + room
        return Plan(Operation.CONVOLVE, fields, tables, len(boxes.table), scratch)


def outer(
    positions: Table, step: int, channels: int, stride: int = 1, chains: Chains = NO_CHAINS
) -> Table:
    """Offsets of all channels at all positions; at the first ones, for each channel in chains."""
    offsets = positions[:, None] * step + np.arange(channels) * stride
    threes, pairs, others = np.split(offsets, np.cumsum(chains.steps))
    parts = threes.reshape(-1, 3, channels), pairs.reshape(-1, 2, channels)
    return np.concatenate(
        [*(part.swapaxes(1, 2).reshape(-1) for part in parts), others.reshape(-1)]
    )


def joined(parts: list[Table]) -> Table:
    """Join tables, of which there may be none."""
    return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)


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
