"""Tables in .csv, .tsv and .parquet files: columns of values, and one of classes."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from convae.data.layouts import Values
from convae.errors import MissingPackageError, UserError, counted
from convae.files import printable

LABELS = ("label", "labels", "target", "targets", "class", "classes", "y")
"""Words by which an array, or a column, is known to hold classes; the first of several."""

MISSING = ("", "na", "n/a", "nan", "null", "none")
"""Cells, in any case, in which a number is missing."""

NUMBERED = re.compile(r"|Unnamed: \d+|__index_level_\d+__")
"""Names of columns with the numbers of rows, as pandas writes them."""

DECIMAL_COMMA = re.compile(r"\s*[-+]?\d*,\d+([eE][-+]?\d+)?\s*")
"""A number as it is written in half of Europe."""

SAMPLED = 50
"""Rows in which decimal commas are looked for."""

SHOWN = 8
"""Names of columns in a message, at most."""


@dataclass(frozen=True)
class Table:
    """What a table holds.

    Parameters
    ----------
    values : (N, columns) or (N, columns, length) ndarray
        The values; where there is no column but that of classes, these, (N,).
    columns : tuple of str
        The names of the columns of values; their numbers where there is no header.
    labels : (N,) ndarray, optional
        The classes.
    notes : tuple of str
        What is worth knowing of how it was read.
    layout : str, optional
        The order of the values' axes, where the file tells it.
    """

    values: Values
    columns: tuple[str, ...] = ()
    labels: Values | None = None
    notes: tuple[str, ...] = ()
    layout: str | None = None


def read_csv(
    path: Path, labels: Any, columns: Sequence[Any] | None, with_labels: bool = True
) -> Table:
    """Read a table of text: rows of numbers, with or without a header, and their classes."""
    form = _Form.of(path, columns)
    label, chosen = _chosen(form.names, form.has_header, labels, columns)
    notes = [*form.notes, *_notes(form.names, label, chosen, columns)]
    classes = None
    if not chosen and not with_labels:
        raise UserError("has no columns of values")
    if label is not None and with_labels:
        cells = [row[label].strip() for row in form.rows(path)]
        if "" in cells:
            raise UserError(
                f"row {cells.index('') + 1:,} has no class in column {form.names[label]!r}"
            )
        classes = plain_labels(cells)
        if not chosen:
            return Table(classes)
    kept = tuple(form.names[n] for n in chosen)
    return Table(form.numbers(path, chosen), kept, classes, tuple(notes))


@dataclass(frozen=True)
class _Form:
    """How a table of text is written: what comes before its rows, and what separates cells."""

    skipped: int
    delimiter: str
    has_decimal_commas: bool
    names: list[str]
    has_header: bool
    notes: list[str]

    @classmethod
    def of(cls, path: Path, columns: Sequence[Any] | None) -> _Form:
        """Look at the first lines; comments before the rows are left out.

        Of tables whose `columns` have numbers, and no names, numbers in the first row are no names.
        """
        with _opened(path) as file:
            skipped, comment, first = 0, "", ""
            for line in file:
                if line.strip() and not line.startswith("#"):
                    first = line
                    break
                skipped += 1
                comment = line[1:] if line.strip() else comment
            others = [*islice((line for line in file if line.strip()), SAMPLED)]
            second = others[0] if others else ""
        if not first:
            raise UserError("is empty")
        delimiter = delimiter_of(first, second)
        names, row = _cells(first, delimiter), _cells(second, delimiter)
        cells = (cell for line in others or [first] for cell in _cells(line, delimiter))
        commas = delimiter != "," and any(map(DECIMAL_COMMA.fullmatch, cells))
        notes = ["numbers have decimal commas"] if commas else []
        commented = _cells(comment, delimiter)
        if len(commented) == len(names) > 1 and not _is_header(names, row):
            return cls(skipped, delimiter, commas, commented, True, notes)
        has_numbers = all(map(_is_number, names))
        are_known = columns is None or {*map(str, columns)} <= {*names}
        if _is_header(names, row) and (are_known or not has_numbers):
            if has_numbers:
                shown = ", ".join(names[:SHOWN]) + (" ..." if len(names) > SHOWN else "")
                notes.append(f"the first row is taken for the columns' names: {shown}")
            return cls(skipped + 1, delimiter, commas, names, True, notes)
        numbers = [*map(str, range(len(names)))]
        if len(names) > 1 and not names[-1] and not (row and row[-1]):
            numbers[-1] = ""  # rows end in a delimiter
        return cls(skipped, delimiter, commas, numbers, False, notes)

    def lines(self, file: TextIO) -> Iterator[str]:
        """Iterate over the lines of rows; each has as many cells."""
        width, row = len(self.names), 0
        for number, line in enumerate(file):
            if number < self.skipped or not line.strip():
                continue
            row += 1
            cells = line.count(self.delimiter) + 1
            if cells != width and '"' not in line:
                raise UserError(f"row {row:,} has {counted(cells, 'cell')}; expected {width}")
            yield line

    def rows(self, path: Path) -> Iterator[list[str]]:
        """Iterate over all rows, as text."""
        with _opened(path) as file:
            for number, row in enumerate(csv.reader(self.lines(file), delimiter=self.delimiter), 1):
                if len(row) != len(self.names):
                    cells = counted(len(row), "cell")
                    raise UserError(f"row {number:,} has {cells}; expected {len(self.names)}")
                yield row

    def numbers(self, path: Path, chosen: Sequence[int]) -> Values:
        """Read some columns; NaN where a number is missing."""
        try:
            with _opened(path) as file:
                if next(self.lines(file), None) is None:
                    raise UserError("has no rows but that of names")
            with _opened(path) as file:
                return np.loadtxt(
                    map(self._with_points, self.lines(file)), np.float64, usecols=chosen,
                    delimiter=self.delimiter, comments=None, ndmin=2, quotechar='"',
                )  # fmt: skip
        except UserError:
            raise
        except ValueError:  # cell by cell, which takes longer
            found = []
            for number, cells in enumerate(self.rows(path), 1):
                row = [*map(self._with_points, cells)]
                for n in chosen:
                    if not _is_number(row[n]) and row[n].strip().lower() not in MISSING:
                        raise UserError(
                            f"row {number:,}, column {self.names[n]!r}: {row[n]!r} is no number; "
                            "choose columns with dataset.columns=[...]"
                        ) from None
                found.append([float(row[n]) if _is_number(row[n]) else np.nan for n in chosen])
            return np.array(found, np.float64).reshape(-1, len(chosen))

    def _with_points(self, text: str) -> str:
        """Write the numbers in a line, or a cell, with decimal points."""
        return text.replace(",", ".") if self.has_decimal_commas else text


def _opened(path: Path) -> TextIO:
    return path.open(encoding="utf-8-sig", newline="")


def _cells(line: str, delimiter: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])]


def rows_of(path: Path) -> list[list[str]]:
    """Read all rows of a table of text; empty lines are left out.

    Raises `UserError` if it is not one in UTF-8.
    """
    try:
        with _opened(path) as file:
            first = file.readline()
            file.seek(0)
            return [row for row in csv.reader(file, delimiter=delimiter_of(first)) if row]
    except (UnicodeError, csv.Error) as error:
        name = printable(str(path))
        raise UserError(f"{name!r} cannot be read as a table in UTF-8: {error}") from None


def delimiter_of(line: str, following: str = "") -> str:
    """Guess what separates the cells of a table from one or two lines of it."""
    for delimiter in "\t;":  # where commas are those of numbers
        cells = (following or line).strip().split(delimiter)
        if len(cells) > 1 and all(_is_number(c) or DECIMAL_COMMA.fullmatch(c) for c in cells):
            return delimiter
    return max("\t;,", key=line.count) if any(map(line.count, "\t;,")) else ","


def _is_header(row: Sequence[str], following: Sequence[str]) -> bool:
    """Tell whether the first row of a table names its columns, be it by numbers as 0, 1, 2.

    One of mostly numbers, with words where the next one has them, is a row as the others.
    """
    are_numbers, too = [*map(_is_value, row)], [*map(_is_value, following)]
    if not all(are_numbers):
        return are_numbers != too or 2 * sum(are_numbers) < len(row)
    return _is_counted(row) and bool(following) and not _is_counted(following)


def _is_value(cell: str) -> bool:
    """Tell whether a cell is a number, or could be one."""
    is_missing = cell.lower() in MISSING
    return _is_number(cell) or is_missing or bool(DECIMAL_COMMA.fullmatch(cell))


def _is_counted(row: Sequence[str]) -> bool:
    """Tell whether cells are whole numbers that rise evenly."""
    if len(row) < 3 or not all(cell.isdigit() for cell in row):
        return False
    steps = set(np.diff([int(cell) for cell in row]).tolist())
    return len(steps) == 1 and steps.pop() > 0


def _is_number(text: str) -> bool:
    try:
        return not np.isnan(float(text))
    except ValueError:
        return False


def plain_labels(cells: Sequence[str]) -> Values:
    """Make classes numbers where all of them are whole ones, and stay apart."""
    try:
        numbers = [int(cell) if cell.lstrip("+-").isdigit() else _whole(cell) for cell in cells]
    except ValueError:
        return np.array(cells, np.str_)
    known = dict(zip(cells, numbers, strict=True))
    is_same = len(set(known.values())) == len(known) and all(abs(n) < 2**63 for n in numbers)
    return np.array(numbers, np.int64) if is_same else np.array(cells, np.str_)


def _whole(cell: str) -> int:
    """Read a whole number that is written as a float is."""
    number = float(cell)
    if not abs(number) < 2**53 or not number.is_integer():
        raise ValueError(cell)
    return int(number)


def _notes(
    names: Sequence[str], label: int | None, chosen: Sequence[int], columns: Any
) -> Iterator[str]:
    """Say which columns are not taken for values."""
    if label is not None:
        yield f"column {names[label]!r} holds the classes"
    left = [n for n in range(len(names)) if n != label and n not in chosen]
    if columns is None and left:
        named = [names[n] for n in left if names[n]]
        if len(named) < len(left):
            yield "a column without a name is left out"
        if named:
            yield f"columns with the numbers of rows are left out: {', '.join(named)}"


def _chosen(
    names: Sequence[str], has_header: bool, labels: Any, columns: Sequence[Any] | None
) -> tuple[int | None, list[int]]:
    """Find the column of classes, if there is one, and those of values."""
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    if twice:
        raise UserError(f"has several columns called {twice[0]!r}")
    label = None
    if labels is not None:
        label = _column("dataset.labels", labels, names)
    elif has_header:
        wanted = {*map(str, columns or ())}
        known = [n for n, name in enumerate(names) if name.lower() in LABELS]
        known = [n for n in known if names[n] not in wanted]
        label = min(known, key=lambda n: LABELS.index(names[n].lower()), default=None)
    are_numbers = all(isinstance(c, str) and c.isdigit() for c in columns or ())
    if columns is not None and not has_header and are_numbers:  # of a model
        return label, _of_width(len(names), label, [int(c) for c in columns])
    if columns is not None:
        chosen = [_column("dataset.columns", column, names) for column in columns]
    else:
        chosen = [n for n, name in enumerate(names) if n != label and not NUMBERED.fullmatch(name)]
    if not chosen and label is None:
        raise UserError("has no columns of values")
    return label, chosen


def _of_width(width: int, label: int | None, columns: list[int]) -> list[int]:
    """Find columns by their numbers in a table of this width.

    It may be one like the training examples', with or without their classes.
    """
    if width == len(columns) and label is None:
        return [*range(width)]
    needed = max(columns, default=-1) + 1
    if width not in (needed, len(columns) + 1):
        raise UserError(f"has {counted(width, 'column')}; expected {len(columns)}")
    return columns


def _column(argument: str, which: Any, names: Sequence[str]) -> int:
    """Find a column by its name, or its number from 0, or from -1 backwards."""
    if str(which) in names:
        return names.index(str(which))
    if isinstance(which, int) and -len(names) <= which < len(names):
        return which % len(names)
    shown = ", ".join(names[:SHOWN]) + (" ..." if len(names) > SHOWN else "")
    raise UserError(f"{argument}: there is no column {which!r} among {len(names)}: {shown}")


def read_parquet(
    path: Path, labels: Any, columns: Sequence[Any] | None, with_labels: bool = True
) -> Table:
    """Read a table of columns: numbers, or lists of numbers, each the channel of a signal."""
    pyarrow = arrow()
    table = pyarrow.parquet.read_table(path)
    names = table.column_names
    label, chosen = _chosen(names, True, labels, columns)
    classes = None
    if not chosen and not with_labels:
        raise UserError("has no columns of values")
    if label is not None and with_labels:
        column = table.column(label)
        if column.null_count:
            raise UserError(
                f"column {names[label]!r} has {counted(column.null_count, 'row')} without a class"
            )
        classes = plain_labels([str(cell) for cell in column.to_pylist()])
        if not chosen:
            return Table(classes)
    types = pyarrow.types
    kinds: list[Callable[[Any], bool]] = [
        types.is_list, types.is_large_list, types.is_fixed_size_list,
    ]  # fmt: skip
    are_lists = [any(kind(table.schema.field(n).type) for kind in kinds) for n in chosen]
    kept = tuple(names[n] for n in chosen)
    if any(are_lists) and not all(are_lists):
        raise UserError(
            f"some of the columns {', '.join(kept)} hold lists and others numbers; choose with "
            "dataset.columns=[...]"
        )
    arrays = [_of_arrow(table.column(n), names[n], are_lists[0]) for n in chosen]
    if are_lists[0] and len({array.shape for array in arrays}) > 1:
        raise UserError("the lists of its columns differ in length")
    return Table(
        np.stack(arrays, axis=1),  # (N, columns[, length])
        kept,
        classes,
        tuple(_notes(names, label, chosen, columns)),
        "NCL" if are_lists[0] else None,
    )


def arrow() -> Any:
    """Import pyarrow and its Parquet, or say that they are missing."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise MissingPackageError(
            "Parquet needs the package pyarrow: pip install -e '.[parquet]'"
        ) from None
    return pyarrow


def _of_arrow(column: Any, name: str, is_list: bool) -> Values:
    """Turn a column into an array, (N,) or (N, length)."""
    pyarrow = arrow()
    types, kind = pyarrow.types, column.type
    if types.is_dictionary(kind):
        column = column.cast(kind.value_type)
    if types.is_decimal(kind):
        column = column.cast(pyarrow.float64())
    if column.null_count:
        raise UserError(f"column {name!r} has {column.null_count:,} rows without a value")
    inner = column.type.value_type if is_list else column.type
    tests = (types.is_integer, types.is_floating, types.is_boolean)
    if not any(test(inner) for test in tests):
        raise UserError(
            f"column {name!r} holds {inner}, and no numbers; choose others with "
            "dataset.columns=[...]"
        )
    if not is_list:
        return np.asarray(column.to_numpy())
    rows = column.combine_chunks()
    lengths = set(rows.value_lengths().to_pylist())
    if len(lengths) != 1:
        raise UserError(f"the lists of column {name!r} differ in length; expected one length")
    return np.asarray(rows.flatten().to_numpy(zero_copy_only=False)).reshape(len(rows), -1)
