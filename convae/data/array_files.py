"""Files of arrays: NumPy's .npy and .npz, and tables of numbers in .csv, .tsv and .parquet.

Arrays in .npy files are mapped into memory, so that a file of any size can be read.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from convae.data.folders import PART_OF
from convae.data.layouts import Values
from convae.data.tables import (
    LABELS,
    Table,
    plain_labels,
    read_csv,
    read_parquet,
    rows_of,
)
from convae.errors import MissingPackageError, UserError
from convae.files import printable

ENDINGS = (".npy", ".npz", ".csv", ".tsv", ".parquet")
"""Endings of files that may hold arrays."""

TABLES = (".csv", ".tsv", ".parquet")
"""Those of tables."""


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

    @classmethod
    def of(cls, path: Path, values: Values, key: str = "") -> Stack:
        """Return an array that has been read."""
        return cls(path, values.shape, values.dtype, key, values)

    @property
    def name(self) -> str:
        """The file's path, and the array's name in it."""
        return f"{self.path}/{self.key}" if self.key else str(self.path)

    def open(self) -> Values:
        """Return the array, mapped into memory or in it."""
        if self.values is not None:
            return self.values
        try:
            mapped: Values = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (EOFError, OSError, ValueError) as error:
            raise UserError(f"{str(self.path)!r} cannot be read any more: {error}") from None
        if (mapped.shape, mapped.dtype) != (self.shape, self.dtype):
            raise UserError(f"{str(self.path)!r} has changed while it was in use")
        return mapped


def read_stacks(
    path: Path,
    labels: Any = None,
    columns: Sequence[Any] | None = None,
    with_labels: bool = True,
) -> list[Stack]:
    """Read a file: its arrays, those of classes among them; of a table, what columns say.

    The classes in a table are read if they are wanted.

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
            if not zipfile.is_zipfile(path):
                raise UserError("it is no archive")
            with np.load(path, allow_pickle=False) as file:
                return [Stack.of(path, file[key], key) for key in file.files]
        read = read_parquet if ending == ".parquet" else read_csv
        table = read(path, labels, columns, with_labels)
        return [_of_table(path, table)]
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


def _of_table(path: Path, table: Table) -> Stack:
    return replace(
        Stack.of(path, table.values),
        labels=table.labels,
        notes=table.notes,
        columns=table.columns,
        layout=table.layout,
    )


def read_classes(path: Path) -> Values:
    """Read a file of classes: its only array, or a table's only column, or that of classes.

    Raises `UserError` if there are several.
    """
    if path.suffix.lower() in (".csv", ".tsv"):
        rows = rows_of(path)
        if rows and {len(row) for row in rows} == {1}:
            cells = [row[0].strip() for row in rows]
            return plain_labels(cells[1:] if cells[0].lower() in LABELS else cells)
    stacks = read_stacks(path)
    if len(stacks) > 1:
        stacks = [stack for stack in stacks if role(stack.key)[1]]
    if len(stacks) != 1:
        raise UserError(
            f"{printable(str(path))!r} has several arrays; expected one of classes, such as y"
        )
    (stack,) = stacks
    return np.asarray(stack.open() if stack.labels is None else stack.labels)


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
