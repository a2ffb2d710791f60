"""Lists of calls: what a node, or a whole program, has to do, as lines that compiled code reads.

A list is written once. To do it takes one call of a compiled function, which needs no Python, and
so no lock, until the whole list is done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from itertools import accumulate, pairwise

import numpy as np

from convae.engine.arrays import Array
from convae.engine.cpu import products
from convae.engine.cpu.buffers import reserved, scratch
from convae.engine.cpu.choice import together
from convae.engine.cpu.division import Table
from convae.engine.cpu.machine import PANEL_BYTES, VECTOR_BYTES, multiple
from convae.engine.cpu.plan import Plan
from convae.engine.cpu.rows import FIELDS, NUMBERS, Field, Job, Number, Operation, Watched
from convae.engine.cpu.threads import WATCHING, in_pool, share
from convae.engine.program.arithmetic import Run
from convae.errors import counted


@cache
def anchor(dtype: np.dtype[np.generic]) -> Array:
    """Return the array in which compiled code finds all others, by offsets that leave it."""
    return np.zeros(VECTOR_BYTES, dtype)


@cache
def _anchor_address(dtype: np.dtype[np.generic]) -> int:
    return _address(anchor(dtype))


def _address(array: Array) -> int:
    """Return where an array begins in memory."""
    return int(array.ctypes.data)


def place(array: Array) -> int:
    """Return the offset of a contiguous array from the anchor of its type."""
    assert array.flags.c_contiguous
    return _place(_address(array), array.dtype)


def _place(address: int, dtype: np.dtype[np.generic]) -> int:
    """Return the offset of what lies at an address."""
    place, rest = divmod(address - _anchor_address(dtype), dtype.itemsize)
    assert rest == 0, "an array that is not aligned"
    return place


_POINTERS = [Field.D, Field.A, Field.B, Field.BIAS, Field.H, Field.EXTRA, Field.TARGET]
"""The entries of a line that are places of arrays."""


@dataclass
class Line:
    """A call.

    Parameters
    ----------
    operation : Operation
        What is done.
    arrays : mapping of Field to ndarray
        Where D, A and others lie.
    fields : mapping of Field to int
        Other whole numbers.
    numbers : mapping of Number to float
        Numbers that are not whole.
    plan : Plan, optional
        A product's.
    scratch : int
        Elements of scratch memory that it takes, if it has no plan.
    part : (first, last) tuple of int, optional
        The blocks of a plan that it does; lines that differ in this alone have the same `arrays`.
    """

    operation: Operation
    arrays: Mapping[Field, Array]
    fields: Mapping[int, int] = field(default_factory=dict)
    numbers: Mapping[Number, float | Sequence[float]] = field(default_factory=dict)
    plan: Plan | None = None
    scratch: int = 0
    part: tuple[int, int] | None = None

    def row(self, start: int, places: dict[int, int]) -> Table:
        """Write itself as a row of a list, whose tables begin at `start`.

        `places` has those of arrays, by their identity, that are known already.
        """
        if self.plan is None:
            row = np.zeros(FIELDS, np.int64)
        else:
            row = self.plan.row.copy()
            row[self.plan.starts] += start
        row[Field.OPERATION] = self.operation
        for name, array in self.arrays.items():
            if id(array) not in places:
                places[id(array)] = place(array)
            row[name] = places[id(array)]
        for entry, value in self.fields.items():
            row[entry] = value
        return row

    def values(self, dtype: np.dtype[np.generic]) -> Array:
        """Write its numbers."""
        values = np.zeros(NUMBERS, dtype)
        for number, found in self.numbers.items():
            listed = np.atleast_1d(np.asarray(found))
            values[number : number + len(listed)] = listed
        return values


@dataclass
class Written:
    """A list of calls as compiled code reads it, and the sums of squared errors of its lines.

    It knows where arrays lie, but does not keep them.

    Parameters
    ----------
    table : (T,) ndarray of int
        The tables of the lines' plans, end to end.
    rows : (lines, FIELDS) ndarray of int
        Their whole numbers and offsets.
    numbers : (lines, NUMBERS) ndarray
        Their other numbers.
    sums : (lines,) ndarray
        What was summed last.
    scratch : int
        Elements of scratch memory for any of them.
    parts : list of (first, last, together)
        Lines to be done one part after the other, and how many of a part at the same time.
    """

    table: Table
    rows: Table
    numbers: Array
    sums: Array
    scratch: int
    parts: list[tuple[int, int, int]]

    def run(self, rows: Table | None = None) -> None:
        """Do all lines, or with other `rows`; in a thread that is busy, one after the other."""
        address = self._addresses[1] if rows is None else _address(rows)
        for part in [(0, len(self.rows), 1)] if in_pool() else self.parts:
            share(partial(self._do, part, address), part[2])

    @cached_property
    def _addresses(self) -> tuple[int, int, int, int]:
        """Where the table, the rows, the numbers and the sums lie."""
        table, rows, numbers, sums = map(_address, (self.table, self.rows, self.numbers, self.sums))
        return table, rows, numbers, sums

    def _do(self, part: tuple[int, int, int], rows: int, job: Array) -> None:
        """Write a part of the lines as a job, and do it."""
        first, last, together = part
        dtype, (table, _, numbers, sums) = self.numbers.dtype, self._addresses
        job[Job.TAKEN] = job[Job.DONE] = first
        job[Job.NUMBER] += 1
        job[Job.LAST :] = (
            last, together, dtype.itemsize, self.scratch, table, len(self.table),
            rows, len(self.rows), numbers, sums,
        )  # fmt: skip
        _work(dtype, self.scratch, job, 0, 0, 0)

    def entries(self, array: Array) -> tuple[Table, Table]:
        """Find the entries of the lines that point to an array, or into it: rows, columns."""
        pointers, begin = self.rows[:, _POINTERS], place(array)
        rows, columns = np.nonzero((begin <= pointers) & (pointers < begin + max(array.size, 1)))
        return rows, np.array(_POINTERS)[columns]


_INTEGER = np.dtype(np.int64)


def watch(job: Array, helper: int, posted: int) -> bool:
    """Do jobs while they come, as a helper; tells whether it is wanted for something else."""
    reason = int(Watched.UNFIT)
    while reason == Watched.UNFIT:
        dtype = np.dtype(f"f{job[Job.ITEMSIZE]}")
        reason = _work(dtype, int(job[Job.SCRATCH]), job, helper, posted, WATCHING)
    return reason == Watched.POSTED


def _work(
    dtype: np.dtype[np.generic], room: int, job: Array, helper: int, posted: int, turns: int
) -> int:
    """Do jobs with scratch memory of so many elements; see `products.work`."""
    _memory, address = reserved("calls", room * dtype.itemsize)  # which lives until the end
    steps = scratch("steps", (PANEL_BYTES // VECTOR_BYTES * 2,), _INTEGER)
    where = anchor(dtype), job, helper, posted, _place(address, dtype), room, steps, turns
    return int(products.work(*where))


@dataclass
class Calls:
    """Lines in stages: those of a stage may be done at the same time, by several threads.

    Parameters
    ----------
    dtype : dtype
        Of all arrays.
    stages : list of list of Line
        What is done.
    before, after : list of callable
        What Python does first and last; `after` may read `sums`.
    """

    dtype: np.dtype[np.generic]
    stages: list[list[Line]]
    before: list[Run] = field(default_factory=list)
    after: list[Callable[[Array], None]] = field(default_factory=list)

    @property
    def lines(self) -> list[Line]:
        """The lines of all stages."""
        return [line for stage in self.stages for line in stage]

    @cached_property
    def written(self) -> Written:
        """The lines, with their plans' tables, as compiled code reads them."""
        lines = self.lines
        rows = np.zeros((len(lines), FIELDS), np.int64)
        numbers = np.zeros((len(lines), NUMBERS), self.dtype)
        tables: dict[int, tuple[int, Table]] = {}  # by the plan
        places: dict[int, int] = {}
        length = 0
        written: dict[int, tuple[Table, Array]] = {}  # by the arrays
        for number, line in enumerate(lines):
            if line.plan is not None and id(line.plan) not in tables:
                tables[id(line.plan)] = length, line.plan.table
                length += len(line.plan.table)
            if id(line.arrays) not in written:
                start = tables[id(line.plan)][0] if line.plan is not None else 0
                written[id(line.arrays)] = line.row(start, places), line.values(self.dtype)
            rows[number], numbers[number] = written[id(line.arrays)]
            if line.part is not None:
                rows[number, Field.FIRST : Field.LAST + 1] = line.part
        parts = [table for _, table in tables.values()] or [np.zeros(1, np.int64)]
        table = parts[0] if len(parts) == 1 else np.concatenate(parts)
        scratches = (line.plan.scratch if line.plan else line.scratch for line in lines)
        most = max(scratches, default=0)
        return Written(table, rows, numbers, np.zeros(len(lines)), most, self._parts())

    def describe(self) -> str:
        """Say how the products among them are computed."""
        found = []
        for line in self.lines:
            if line.plan is not None:
                assert line.part is not None
                blocks = line.part[1] - line.part[0]
                terms = line.plan.fields.get(Field.TERM_COUNT, 1)
                vectors = self._vectors(line.plan)
                found.append(
                    f"vectors of {vectors}, {counted(blocks, 'block')} of {counted(terms, 'term')}"
                )
        return "; ".join(found)

    def _vectors(self, plan: Plan) -> str:
        """Say what lies along the vectors of a product."""
        if plan.operation == Operation.SPREAD:
            return "positions"
        if plan.fields[Field.BY_TAPS]:
            return "taps"
        A_group, group = plan.fields[Field.A_GROUP], plan.fields[Field.GROUP]
        vector = VECTOR_BYTES // self.dtype.itemsize
        return "groups" if group and together(A_group, group, vector) > 1 else "channels"

    def _parts(self) -> list[tuple[int, int, int]]:
        """Divide the lines by stages, of which those of one line are put together."""
        parts: list[tuple[int, int, int]] = []
        for first, last in pairwise(accumulate(map(len, self.stages), initial=0)):
            if last - first == 1 and parts and parts[-1][2] == 1:
                first = parts.pop()[0]
                parts.append((first, last, 1))
            else:
                parts.append((first, last, last - first))
        return parts

    def __call__(self) -> None:
        """Do all of it."""
        for run in self.before:
            run()
        self.written.run()
        for finish in self.after:
            finish(self.written.sums)


def joined(parts: Sequence[Calls]) -> Calls:
    """Join lists that are done one after the other, and have nothing for Python to do between."""
    stages = [stage for part in parts for stage in part.stages]
    after: list[Callable[[Array], None]] = []
    begin = 0
    for part in parts:
        count = len(part.lines)
        for finish in part.after:
            after.append(partial(_on_part, finish, begin, begin + count))
        begin += count
    before = [run for part in parts for run in part.before]
    return Calls(parts[0].dtype, stages, before, after)


def _on_part(finish: Callable[[Array], None], first: int, last: int, sums: Array) -> None:
    finish(sums[first:last])


class Template:
    """A list of calls whose arrays lie somewhere else each time.

    Parameters
    ----------
    calls : Calls
        The list, on arrays that are as large.
    arrays : sequence of ndarray
        Those that will be others, no two of which lie at the same place.
    between : sequence of ndarray
        Those that hold what one line leaves for another.
    """

    def __init__(self, calls: Calls, arrays: Sequence[Array], between: Sequence[Array]) -> None:
        self._written = calls.written
        sizes = [multiple(array.nbytes, VECTOR_BYTES) for array in between]
        self._room = max(1, sum(sizes) // calls.dtype.itemsize)
        entries = [calls.written.entries(array) for array in [*arrays, *between]]
        self._rows = np.concatenate([rows for rows, _ in entries])
        self._columns = np.concatenate([columns for _, columns in entries])
        counts = [len(rows) for rows, _ in entries]
        self._which = np.repeat(np.arange(len(entries)), counts)
        starts = accumulate(sizes[:-1], initial=0) if sizes else ()
        self._starts = [start // calls.dtype.itemsize for start in starts]

    def __call__(self, *arrays: Array) -> None:
        """Do it with these arrays."""
        places = [place(array) for array in arrays]
        dtype = self._written.numbers.dtype
        _between, address = reserved("between", self._room * dtype.itemsize)  # lives until the end
        places += [_place(address, dtype) + start for start in self._starts]
        rows = self._written.rows.copy()
        rows[self._rows, self._columns] = np.array(places)[self._which]
        self._written.run(rows)
