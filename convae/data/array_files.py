"""Files of arrays: NumPy's .npy and .npz, and tables of numbers in .csv, .tsv and .parquet.

Arrays in .npy files are mapped into memory, so that a file of any size can be read.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from convae.data.folders import PART_OF
from convae.data.layouts import Values
from convae.errors import MissingPackageError, UserError
from convae.files import printable

ENDINGS = (".npy", ".npz", ".csv", ".tsv", ".parquet")
"""Endings of files that may hold arrays."""

LABELS = ("label", "labels", "target", "targets", "class", "classes", "y")
"""Words by which an array, or a column, is known to hold classes; the first of several."""


@dataclass(frozen=True)
class Stack:
    """One array of a file.

    Parameters
    ----------
    path : Path
        The file.
    shape : tuple of int
        The array's shape.
    dtype : dtype
        Its type.
    key : str
        Its name in the file, where this has several.
    values : ndarray, optional
        The array; if not given, it is mapped from the file whenever it is needed.
    labels : (N,) ndarray, optional
        Classes that stand beside it in a table.
    notes : tuple of str
        What is worth knowing of how it was read.
    columns : tuple of str
        Of a table, the names of the columns of values; their numbers where there is no header.
    layout : str, optional
        The order of its axes, where the file tells it.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    key: str = ""
    values: Values | None = None
    labels: Values | None = None
    notes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    layout: str | None = None

    @property
    def name(self) -> str:
        """The file's path, and the array's name in it."""
        return f"{self.path}/{self.key}" if self.key else str(self.path)

    def open(self) -> Values:
        """Return the array, mapped into memory or in it."""
        if self.values is not None:
            return self.values
        mapped: Values = np.load(self.path, mmap_mode="r", allow_pickle=False)
        if (mapped.shape, mapped.dtype) != (self.shape, self.dtype):
            raise UserError(f"{str(self.path)!r} has changed while it was in use")
        return mapped


def read_stacks(
    path: Path, labels: Any = None, columns: Sequence[Any] | None = None
) -> list[Stack]:
    """Read a file: its arrays, those of classes among them; of a table, what columns say.

    Raises `UserError` if the file holds no arrays of numbers, or is damaged.
    """
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise UserError(
            f"{printable(str(path))!r} is no file of arrays; expected {', '.join(ENDINGS)}"
        )
    try:
        if ending == ".npy":
            return [_npy(path)]
        if ending == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return [_stack(path, file[key], key) for key in file.files]
        read = _read_parquet if ending == ".parquet" else _read_csv
        return [read(path, labels, columns)]
    except (MissingPackageError, OSError):
        raise
    except UserError as error:
        raise UserError(f"{printable(str(path))!r}: {error}") from None
    except Exception as error:  # of a reader: the file is not what its ending says
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{printable(str(path))!r} cannot be read as {ending}: {reason}") from None


def _npy(path: Path) -> Stack:
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
            version, np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(file)
        if dtype.hasobject:
            raise UserError("holds Python objects; expected an array of numbers")
        expected = file.tell() + dtype.itemsize * int(np.prod(shape, dtype=object))
    if path.stat().st_size < expected:
        raise UserError(f"is cut off: {path.stat().st_size:,} bytes of {expected:,}")
    return Stack(path, shape, dtype)


def _stack(path: Path, values: Values, key: str = "") -> Stack:
    return Stack(path, values.shape, values.dtype, key, values)


def check_numbers(stack: Stack) -> None:
    """Refuse an array that cannot hold examples."""
    if stack.dtype.kind not in "biuf":
        what = (
            "complex numbers; give their parts as channels"
            if stack.dtype.kind == "c"
            else (f"{stack.dtype}, and no numbers")
        )
        raise UserError(f"{printable(stack.name)!r} holds {what}")
    if not stack.shape or 0 in stack.shape:
        raise UserError(f"{printable(stack.name)!r} is empty: its shape is {stack.shape}")


def role(name: str) -> tuple[str | None, bool]:
    """Tell of which part of a dataset an array is, by its name, and whether it holds classes.

    As "x_train", "test_images" or "val_labels" do.
    """
    words = re.split(r"[^a-z]+", name.lower())
    parts = [PART_OF[word] for word in words if word in PART_OF]
    return (parts[0] if parts else None), any(word in LABELS for word in words)


def _read_csv(path: Path, labels: Any, columns: Sequence[Any] | None) -> Stack:
    """Read a table of text: rows of numbers, with or without a header."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        delimiter = delimiter_of(first)
        header = next(csv.reader([first], delimiter=delimiter), [])
    if not header:
        raise UserError("is empty")
    has_header = _is_header(header)
    names = [name.strip() for name in header] if has_header else [*map(str, range(len(header)))]
    label, chosen = _chosen(names, has_header, labels, columns)
    how: dict[str, Any] = {
        "delimiter": delimiter, "skiprows": int(has_header), "comments": None, "ndmin": 2,
        "encoding": "utf-8-sig", "quotechar": '"',
    }  # fmt: skip
    values = np.loadtxt(path, np.float64, usecols=chosen, **how)
    classes = None
    if label is not None:
        classes = np.loadtxt(path, np.str_, usecols=[label], **how)[:, 0]
        classes = _plain_labels(classes)
    kept = tuple(names[n] for n in chosen)
    return replace(
        _stack(path, values),
        labels=classes,
        notes=_notes(names, label, columns),
        columns=kept,
    )


def _notes(names: Sequence[str], label: int | None, columns: Any) -> tuple[str, ...]:
    """Say which columns are not taken for values."""
    notes = [] if label is None else [f"column {names[label]!r} holds the classes"]
    if "" in names and columns is None:
        notes.append("a column without a name is left out")
    return tuple(notes)


def delimiter_of(line: str) -> str:
    """Guess what separates the cells of a table from a line of it."""
    return max("\t;,", key=line.count) if any(map(line.count, "\t;,")) else ","


def _is_header(row: Sequence[str]) -> bool:
    """Tell whether the first row of a table names its columns, be it by 0, 1, 2 and so on."""
    is_counted = len(row) > 2 and list(row) == [*map(str, range(len(row)))]
    return is_counted or not all(map(_is_number, row))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _plain_labels(classes: Values) -> Values:
    """Make classes numbers where all of them are whole ones."""
    try:
        numbers = classes.astype(np.float64)
    except ValueError:
        return classes
    return numbers.astype(np.int64) if (numbers == np.floor(numbers)).all() else classes


def _chosen(
    names: Sequence[str], has_header: bool, labels: Any, columns: Sequence[Any] | None
) -> tuple[int | None, list[int]]:
    """Find the column of classes, if there is one, and those of values."""
    label = None
    if labels is not None:
        label = _column("dataset.labels", labels, names)
    elif has_header and columns is None:
        known = [n for n, name in enumerate(names) if name.lower() in LABELS]
        label = min(known, key=lambda n: LABELS.index(names[n].lower()), default=None)
    if columns is not None and not has_header and len(columns) == len(names):
        chosen = [*range(len(names))]  # a table like the training examples', without their classes
    elif columns is not None:
        chosen = [_column("dataset.columns", column, names) for column in columns]
    else:
        chosen = [n for n, name in enumerate(names) if n != label and name]
    if not chosen:
        raise UserError("has no columns of values")
    return label, chosen


def _column(argument: str, which: Any, names: Sequence[str]) -> int:
    """Find a column by its name, or its number from 0, or from -1 backwards."""
    if str(which) in names:
        return names.index(str(which))
    if isinstance(which, int) and -len(names) <= which < len(names):
        return which % len(names)
    shown = ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")
    raise UserError(f"{argument}: there is no column {which!r} among {len(names)}: {shown}")


def _read_parquet(path: Path, labels: Any, columns: Sequence[Any] | None) -> Stack:
    """Read a table of columns: numbers, or lists of numbers, each the channel of a signal."""
    pyarrow = arrow()
    table = pyarrow.parquet.read_table(path)
    names = table.column_names
    label, chosen = _chosen(names, True, labels, columns)
    types = [table.schema.field(n).type for n in chosen]
    are_lists = [pyarrow.types.is_list(t) or pyarrow.types.is_fixed_size_list(t) for t in types]
    kept = tuple(names[n] for n in chosen)
    if any(are_lists) and not all(are_lists):
        raise UserError(
            f"some of the columns {', '.join(kept)} hold lists and others numbers; choose with "
            "dataset.columns=[...]"
        )
    arrays = [_of_arrow(table.column(n), names[n], are_lists[0]) for n in chosen]
    if are_lists[0] and len({array.shape for array in arrays}) > 1:
        raise UserError("the lists of its columns differ in length")
    values = np.stack(arrays, axis=1)  # (N, columns[, length])
    classes = None
    if label is not None:
        classes = _plain_labels(np.array(table.column(label).to_pylist()).astype(np.str_))
    return replace(
        _stack(path, values),
        labels=classes,
        notes=_notes(names, label, columns),
        columns=kept,
        layout="NCL" if are_lists[0] else None,
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
    if column.null_count:
        raise UserError(f"column {name!r} has {column.null_count:,} rows without a value")
    if not is_list:
        return np.asarray(column.to_numpy())
    rows = column.combine_chunks()
    lengths = set(rows.value_lengths().to_pylist())
    if len(lengths) != 1:
        raise UserError(f"the lists of column {name!r} differ in length; expected one length")
    return np.asarray(rows.flatten().to_numpy(zero_copy_only=False)).reshape(len(rows), -1)
