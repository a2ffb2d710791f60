"""Results written as they come, and put in place when they are whole."""

from __future__ import annotations

import csv
import io
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from convae.checkpoint import whole


class Codes(Protocol):
    """A file of codes that grows batch by batch."""

    def add(self, names: list[str], codes: np.ndarray[Any, Any]) -> None:
        """Append the codes (N, *shape) of some pictures."""


@contextmanager
def codes_file(path: Path, shape: tuple[int, ...], dtype: str) -> Iterator[Codes]:
    """Open a file for codes, by its ending.

    Parameters
    ----------
    path : Path
        ``.npy``: an array (N, *shape), with the pictures' names, line by line, in a file beside it
        that ends in ``.images.txt``. ``.parquet``: columns ``image`` and ``code``, a list of
        numbers.
    shape : tuple of int
        Shape of one code.
    dtype : str
        Type of its numbers.

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
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; name a file in it")
    if path.suffix == ".npy":
        with whole(path) as file, whole(path.with_suffix(".images.txt")) as names:
            array = _Npy(names)
            yield array
            array.finish(file, shape, np.dtype(dtype))
    elif path.suffix == ".parquet":
        with whole(path) as file, _Parquet(file, shape, dtype) as table:
            yield table
    else:
        raise ValueError(f"{path}: codes go to a file that ends in .npy or .parquet")


class _Npy:
    """Codes on their way to one array; how many there are is known at the end only."""

    def __init__(self, names: IO[bytes]) -> None:
        self._names = names
        self._raw = tempfile.TemporaryFile()  # noqa: SIM115 (closed in finish)
        self._count = 0

    def add(self, names: list[str], codes: np.ndarray[Any, Any]) -> None:
        self._names.writelines(f"{printable(name)}\n".encode() for name in names)
        self._raw.write(np.ascontiguousarray(codes).data)
        self._count += len(codes)

    def finish(self, file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
        header = {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": (self._count, *shape),
        }
        np.lib.format.write_array_header_1_0(file, header)
        self._raw.seek(0)
        shutil.copyfileobj(self._raw, file)
        self._raw.close()


class _Parquet:
    """Codes as rows of a table."""

    def __init__(self, file: IO[bytes], shape: tuple[int, ...], dtype: str) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                "Parquet needs the package pyarrow: pip install -e '.[parquet]'"
            ) from None
        self._arrow = pyarrow
        numbers = pyarrow.float32() if dtype == "float32" else pyarrow.float64()
        self._size = prod(shape)
        code = pyarrow.list_(numbers, self._size)
        self._schema = pyarrow.schema([("image", pyarrow.string()), ("code", code)])
        self._writer = pyarrow.parquet.ParquetWriter(file, self._schema)

    def __enter__(self) -> _Parquet:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.close()

    def add(self, names: list[str], codes: np.ndarray[Any, Any]) -> None:
        numbers = self._arrow.array(np.ascontiguousarray(codes).ravel())
        column = self._arrow.FixedSizeListArray.from_arrays(numbers, self._size)
        images = self._arrow.array([printable(name) for name in names])
        self._writer.write_table(self._arrow.table([images, column], schema=self._schema))


def printable(name: str) -> str:
    """Write a file's name in one line of UTF-8, whatever bytes it has.

    Parameters
    ----------
    name : str
        The name, as Python gives it.

    Returns
    -------
    str
        The same, with line ends and what is not UTF-8 as backslash escapes.
    """
    escaped = name.replace("\n", "\\n").replace("\r", "\\r")
    return escaped.encode("utf-8", "backslashreplace").decode()


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
