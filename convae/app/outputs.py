"""Results of the command line, written batch by batch into files that appear when complete."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from PIL import Image

from convae.configuration import SCORES
from convae.data.named_files import Arguments
from convae.data.splits import KINDS
from convae.data.tables import arrow
from convae.errors import MissingPackageError, UserError
from convae.export.formats import EXPORTERS
from convae.files import atomic, printable, write_bytes
from convae.report.page import GENERATOR
from convae.report.pictures import SOFTWARE, png

CLASS = "class"
"""Column of the classes that a classifier finds."""

LONGEST_STEM = 200
"""Bytes of a picture's name without its ending; file systems allow 255 for both."""


class Codes(Protocol):
    """A file of codes that grows batch by batch."""

    def add(self, names: list[str], codes: np.ndarray[Any, Any]) -> None:
        """Append the codes (N, *shape) of some pictures."""


@contextmanager
def codes_file(path: Path, shape: tuple[int, ...], dtype: str, kind: str) -> Iterator[Codes]:
    """Open a file for codes of a shape and dtype; its suffix selects the format.

    ``.npy`` is an array (N, *shape), with the examples' names line by line in ``.images.txt``
    beside it; ``.parquet`` has the columns ``image`` and ``code``, a list of numbers. Another kind
    of examples takes the place of "image".
    """
    if path.is_dir():
        raise UserError(f"{path}: is a folder; expected a file")
    if path.suffix == ".npy":
        with atomic(path) as file, atomic(path.with_suffix(f".{kind}s.txt")) as names:
            array = _Npy(names)
            yield array
            array.finish(file, shape, np.dtype(dtype))
    elif path.suffix == ".parquet":
        with atomic(path) as file, _Parquet(file, shape, dtype, kind) as table:
            yield table
    else:
        raise UserError(f"{path}: unknown suffix; codes are written to .npy or .parquet files")


class _Npy:
    """Codes for one array, whose length is known at the end only."""

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

    def __init__(self, file: IO[bytes], shape: tuple[int, ...], dtype: str, kind: str) -> None:
        pyarrow = self._arrow = arrow()
        numbers = pyarrow.float32() if dtype == "float32" else pyarrow.float64()
        self._size = prod(shape)
        code = pyarrow.list_(numbers, self._size)
        columns = [(kind, pyarrow.string()), ("code", code)]
        self._schema = pyarrow.schema(columns, {"Software": SOFTWARE})
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


@contextmanager
def csv_file(path: Path) -> Iterator[Any]:
    """Open a table of comma-separated values; ``-`` is the standard output."""
    if str(path) == "-":
        yield csv.writer(sys.stdout, lineterminator="\n")
        return
    if path.is_dir():
        raise UserError(f"{path}: is a folder; expected a file")
    with atomic(path) as binary, _text(binary) as file:
        yield csv.writer(file, lineterminator="\n")


@contextmanager
def _text(binary: IO[bytes]) -> Iterator[IO[str]]:
    file = io.TextIOWrapper(binary, "utf-8", newline="", write_through=True)
    yield file
    file.detach()


class Targets:
    """Where a command may write: never over its inputs, over other people's files if told to.

    Parameters
    ----------
    images : Arguments
        The inputs.
    overwrite : bool
        Whether files that convae did not write may be replaced.
    """

    def __init__(self, images: Arguments, overwrite: bool) -> None:
        self.images, self._overwrite = images, overwrite

    def check(self, path: Path) -> Path:
        """Return the path, or refuse it."""
        if os.path.realpath(path) in self.images.inputs:
            raise UserError(f"{path} is one of the input images; choose another output")
        if not self._overwrite:
            refuse_foreign(path)
            if path.suffix == ".npy" and not path.is_file():
                for names in _names_beside(path):
                    refuse_foreign(names)
        return path

    def check_folder(self, folder: Path, target: Callable[[Path], Path]) -> None:
        """Refuse a folder that is a file, or has files of others where inputs' targets are.

        So nothing is written before that is known.
        """
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder}: is a file; expected a folder")
        if folder.is_dir():
            for source in self.images.sources:
                for path in source if isinstance(source, list) else ():
                    self.check(folder / target(self.images.place(str(path))))


def refuse_foreign(path: Path) -> None:
    """Refuse to replace a file that convae did not write."""
    if path.is_file() and not _is_ours(path):
        raise UserError(
            f"{path} exists, and nothing in it says that convae wrote it; choose another output, "
            "or replace it with --overwrite"
        )


def _is_ours(path: Path) -> bool:
    """Tell whether convae wrote a file of pictures, codes or scores, or exported it."""
    if path.suffix == ".npy":
        return any(_names(file, path) for file in _names_beside(path))
    if path.suffix in EXPORTERS:
        return b"convae" in path.read_bytes()
    if path.suffix in (".html", ".htm"):
        return GENERATOR.encode() in path.read_bytes()
    if path.suffix == ".parquet":
        try:
            metadata = arrow().parquet.read_schema(path).metadata or {}
        except (MissingPackageError, OSError, ValueError):
            return False
        return metadata.get(b"Software") == SOFTWARE.encode()
    if path.suffix == ".png":
        try:
            with Image.open(path) as image:
                return image.info.get("Software") == SOFTWARE
        except OSError:
            return False
    with path.open("rb") as file:
        first = file.readline(80).decode("utf-8", "replace").rstrip("\r\n")
    behind = [*SCORES, *(f"{score},anomaly" for score in SCORES), f"{CLASS},probability"]
    return first in {f"{kind},{columns}" for kind in KINDS.values() for columns in behind}


def _names(file: Path, codes: Path) -> bool:
    """Tell whether a file lists what the codes in another are of, line by line."""
    if not file.is_file():
        return False
    try:
        rows = len(np.load(codes, mmap_mode="r", allow_pickle=False))
    except (EOFError, OSError, TypeError, ValueError):
        return False
    with file.open("rb") as lines:
        return sum(1 for _ in lines) == rows


def _names_beside(path: Path) -> list[Path]:
    """Name the files that may list what the codes of a .npy file belong to."""
    return [path.with_suffix(f".{kind}s.txt") for kind in KINDS.values()]


class PictureFolder:
    """A folder of resulting pictures, each under the relative path of its source.

    Parameters
    ----------
    folder : Path
        Created if missing.
    targets : Targets
        What may be written.

    Raises
    ------
    UserError
        If it is the sources' own folder.
    """

    def __init__(self, folder: Path, targets: Targets) -> None:
        sources = targets.images.folder
        if sources is not None and folder.resolve() == sources.resolve():
            raise UserError(f"{folder} is the folder of the images themselves; choose another one")
        targets.check_folder(folder, _picture)
        self._folder, self._targets = folder, targets
        self._taken: set[str] = set()

    def add(self, name: str, picture: np.ndarray[Any, Any]) -> None:
        """Write a picture as PNG; a name that is taken gets a number."""
        place = _picture(self._targets.images.place(name))
        path = free(self._folder / place, self._taken)
        write_bytes(self._targets.check(path), png(picture))


def _picture(place: Path) -> Path:
    """Name the picture that is made from a file."""
    stem = _short(place.stem if place.suffix == ".png" else place.name)
    return place.with_name(f"{stem}.png")


def free(wanted: Path, taken: set[str]) -> Path:
    """Name a file as no other one of this command is called, by a number if need be."""
    path, number = wanted, 1
    while str(path).lower() in taken:  # some file systems ignore case
        number += 1
        path = wanted.with_name(f"{wanted.stem}_{number}{wanted.suffix}")
    taken.add(str(path).lower())
    return path


def _short(stem: str) -> str:
    """Shorten a name so that an ending, and a number, can follow it; a digest keeps it apart."""
    content = os.fsencode(stem)
    if len(content) <= LONGEST_STEM:
        return stem
    digest = hashlib.blake2b(content, digest_size=4).hexdigest()
    return f"{os.fsdecode(content[: LONGEST_STEM // 2])}_{digest}"
