"""A problem as a line of a list of calls, and the tables that the line points to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from convae.engine.cpu.division import Table
from convae.engine.cpu.rows import FIELDS, Field, Operation


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
