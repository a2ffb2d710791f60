"""Results written as they come, and put in place when they are whole."""

from __future__ import annotations

import csv
import io
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from convae.checkpoint import whole


class Codes(Protocol):
    """A file of codes that grows batch by batch."""

    def add(self, names: list[str], codes: np.ndarray[Any, Any]) -> None:
        """Append the codes (N, *shape) of some pictures."""


@contextmanager
def codes_file(path: Path) -> Iterator[Codes]:
    """Open a file for codes, by its ending.

    Parameters
    ----------
    path : Path
        ``.npy``: an array (N, *shape), with the pictures' names, line by line, in a text file of
        the same name beside it. ``.parquet``: columns ``image`` and ``code``, a list of numbers.

    Yields
    ------
    Codes
        The file.

    Raises
    ------
    ValueError
        If the ending is neither.
    ModuleNotFoundError
        If the second is asked for and pyarrow is not installed.
    OSError
        If it cannot be written.
    """
    if path.suffix == ".npy":
        with whole(path) as file, whole(path.with_suffix(".txt")) as names:
            array = _Npy(names)
            yield array
            array.finish(file)
    elif path.suffix == ".parquet":
        with whole(path) as file:
            table = _Parquet(file)
            yield table
            table.finish()
    else:
        raise ValueError(f"{path}: codes go to a file that ends in .npy or .parquet")


class _Npy:
    """Codes on their way to one array; how many there are is known at the end only."""

    def __init__(self, names: IO[bytes]) -> None:
        self._names = names
        self._raw = tempfile.TemporaryFile()  # noqa: SIM115 (closed in finish)
        self._count = 0
        self._like = np.empty((0, 0), np.float32)

    def add(self, names: list[str], codes: np.ndarray[Any, Any]) -> None:
        self._names.writelines(f"{name}\n".encode() for name in names)
        self._raw.write(np.ascontiguousarray(codes).data)
        self._count += len(codes)
        self._like = codes[:0]

    def finish(self, file: IO[bytes]) -> None:
        header = {
            "descr": np.lib.format.dtype_to_descr(self._like.dtype),
            "fortran_order": False,
            "shape": (self._count, *self._like.shape[1:]),
        }
        np.lib.format.write_array_header_1_0(file, header)
        self._raw.seek(0)
        shutil.copyfileobj(self._raw, file)
        self._raw.close()


class _Parquet:
    """Codes as rows of a table."""

    def __init__(self, file: IO[bytes]) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                "Parquet needs the package pyarrow: pip install 'convae[parquet]'"
            ) from None
        self._arrow = pyarrow
        self._file = file
        self._writer: Any = None

    def add(self, names: list[str], codes: np.ndarray[Any, Any]) -> None:
        flat = np.ascontiguousarray(codes).reshape(len(codes), -1)
        numbers = self._arrow.array(flat.ravel())
        column = self._arrow.FixedSizeListArray.from_arrays(numbers, flat.shape[1])
        table = self._arrow.table({"image": self._arrow.array(names), "code": column})
        if self._writer is None:
            self._writer = self._arrow.parquet.ParquetWriter(self._file, table.schema)
        self._writer.write_table(table)

    def finish(self) -> None:
        if self._writer is not None:
            self._writer.close()


@contextmanager
def csv_file(path: Path) -> Iterator[Any]:
    """Open a table of comma-separated values.

    Parameters
    ----------
    path : Path
        Where it goes; ``-`` for the standard output.

    Yields
    ------
    csv.writer
        For its rows.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    if str(path) == "-":
        yield csv.writer(sys.stdout, lineterminator="\n")
        return
    with whole(path) as binary, _text(binary) as file:
        yield csv.writer(file, lineterminator="\n")


@contextmanager
def _text(binary: IO[bytes]) -> Iterator[IO[str]]:
    file = io.TextIOWrapper(binary, "utf-8", newline="", write_through=True)
    yield file
    file.detach()
