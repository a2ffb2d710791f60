"""Tables of pictures: a CSV file with their paths, and columns for classes and parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from convae.data.folders import PART_OF
from convae.data.tables import LABELS, rows_of
from convae.errors import UserError
from convae.files import printable

TABLES_OF_PICTURES = (".csv", ".tsv")
"""Endings of tables of pictures."""

PATHS = ("path", "paths", "file", "files", "filename", "filenames", "file_name", "image", "images")
"""Names of the column with paths."""

PARTS = ("split", "part", "set", "subset", "fold")
"""Names of the column that says to which part of a dataset a picture belongs."""


class Row(NamedTuple):
    """A picture of a table: its file, its class, and "train", "validation" or "test"."""

    path: Path
    label: str | None
    part: str


def read_table(file: Path) -> list[Row]:
    """Read a table; paths are relative to its folder.

    Without a header the columns are paths, and classes if there is a second one.
    """
    rows = rows_of(file)
    if not rows:
        raise UserError(f"{str(file)!r} is empty")
    path, label, part = _columns(file, [name.strip().lower() for name in rows[0]])
    body = rows[1:] if part is not None or _is_header(rows[0], path) else rows
    found = []
    for number, row in enumerate(body, start=len(rows) - len(body) + 1):
        if len(row) != len(rows[0]):
            raise UserError(
                f"line {number} of {str(file)!r} has {len(row)} cells; expected {len(rows[0])}"
            )
        which = "train" if part is None else PART_OF.get(row[part].strip().lower())
        if which is None:
            assert part is not None
            raise UserError(
                f"line {number} of {str(file)!r} has the part "
                f"{printable(row[part])!r}; expected one of {', '.join(PART_OF)}"
            )
        name = None if label is None else row[label].strip()
        if name == "" or "\0" in row[path]:
            what = "no class; give all pictures one, or none" if name == "" else "no path"
            raise UserError(f"line {number} of {str(file)!r} has {what}")
        found.append(Row(file.parent / row[path].strip(), name, which))
    return found


def _columns(file: Path, names: Sequence[str]) -> tuple[int, int | None, int | None]:
    """Find the columns of paths, classes and parts by their names, or by their order."""

    def of(known: Sequence[str]) -> int | None:
        return next((n for n, name in enumerate(names) if name in known), None)

    path = of(PATHS)
    if path is not None:
        return path, of(LABELS), of(PARTS)
    if len(names) > 2 or of((*LABELS, *PARTS)) is not None:
        raise UserError(
            f"{str(file)!r} has the columns {', '.join(map(printable, names))}, and "
            f"none of paths; name it {PATHS[0]!r}"
        )
    return 0, 1 if len(names) == 2 else None, None


def _is_header(row: Sequence[str], path: int) -> bool:
    """Tell whether a table's first row names its columns."""
    return row[path].strip().lower() in PATHS
