"""What the command line names: files, folders, patterns or a dataset, found before they are read.

They are read when they are needed, so any number of them takes the same memory.
"""

from __future__ import annotations

import glob
import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np

from convae.data.folders import find_files, is_by_product
from convae.data.pictures import Conversions, reason
from convae.errors import UserError
from convae.processes import part


class OfDataset(NamedTuple):
    """Examples of a dataset: its name, they, and the number of the first of them."""

    name: str
    examples: Any
    first: int = 0


Source: TypeAlias = list[Path] | OfDataset
"""What an argument names."""


@dataclass(frozen=True)
class Shard:
    """One of several parts of equal sizes, or nearly so, that follow each other.

    Parameters
    ----------
    number, count : int
        The first is 1, of so many.
    """

    number: int = 1
    count: int = 1

    def of(self, units: int) -> slice:
        """Return where it is among so many units."""
        return part(units, self.number - 1, self.count)


WHOLE = Shard()
"""All there is."""


class Arguments(ABC):
    """The examples that some arguments name.

    Parameters
    ----------
    arguments : iterable of str
        Files, folders (searched at any depth), patterns with ``*``, and names of datasets.
    root : str
        The folder in which torchvision looks for datasets.
    shard : Shard
        Which part of them is wanted.

    Attributes
    ----------
    conversions : Conversions
        What was done to the examples read so far.
    left_out : list of str
        For each folder, which of its files were left out.
    unreadable : list of (str, str)
        Names of examples, and arguments, that could not be read, and why.
    folder : Path or None
        The folder that all files have in common; None if there are no files.
    inputs : frozenset of str
        The files' paths, with all links resolved.

    Raises
    ------
    UserError, OSError
        If no argument names any.
    """

    what: ClassVar[str]
    """What it reads, in the plural."""

    def __init__(self, arguments: Iterable[str], root: str, shard: Shard) -> None:
        self.conversions = Conversions()
        self.left_out: list[str] = []
        self.unreadable: list[tuple[str, str]] = []
        arguments, errors = list(arguments), []
        if not arguments or "" in arguments:
            raise UserError("IMAGES: an empty name; expected files, folders, patterns or a dataset")
        self.sources: list[Source] = []
        for argument in arguments:
            try:
                self.sources.append(self._source(argument, root))
            except (OSError, UserError) as error:
                errors.append(error)
                self.unreadable.append((argument, reason(error)))
        if len(errors) == len(arguments):  # nothing at all to read
            raise errors[0]
        files = [path for source in self.sources if isinstance(source, list) for path in source]
        folders = {os.path.abspath(path.parent) for path in files}
        self.folder = Path(os.path.commonpath(folders)) if folders else None
        self.inputs = frozenset(os.path.realpath(path) for path in files)
        start = 0
        wanted = shard.of(sum(map(self.units, self.sources)))
        for number, source in enumerate(self.sources):
            end = start + self.units(source)
            first, last = (min(max(n, start), end) - start for n in (wanted.start, wanted.stop))
            self.sources[number] = self.part(source, first, last)
            start = end

    @property
    @abstractmethod
    def endings(self) -> Collection[str]:
        """Endings of the files that are looked for in folders."""

    @abstractmethod
    def dataset(self, name: str, root: str) -> Any:
        """Read the test examples of a dataset."""

    def units(self, source: Source) -> int:
        """Count what is not divided: files, or the examples of a dataset."""
        return len(source) if isinstance(source, list) else len(source.examples)

    def part(self, source: Source, first: int, last: int) -> Source:
        """Return some units of a source, which follow each other."""
        if isinstance(source, list):
            return source[first:last]
        return OfDataset(source.name, source.examples.select(np.arange(first, last)), first)

    @abstractmethod
    def total(self) -> int | None:
        """Return the number of examples, readable or not, as far as it is known."""

    @abstractmethod
    def batches(self, size: int) -> Iterator[tuple[list[str], Any]]:
        """Iterate over all examples once: their names, and (N, C, *size).

        A batch has fewer than `size` examples where some cannot be read.
        """

    def _source(self, argument: str, root: str) -> Source:
        """Find the files of an argument, or the test examples of the dataset that it names."""
        path = Path(argument)
        if path.is_dir():
            found = find_files(path, self.endings)
            self.unreadable += found.unreadable
            if left_out := found.describe_left_out():
                self.left_out.append(f"{argument}: {left_out}")
            if not found.files:
                raise FileNotFoundError(f"no {self.what} in the folder {argument!r}")
            return found.files
        return _files(argument) or OfDataset(argument.lower(), self.dataset(argument, root))

    def existing(self, paths: Iterable[Path]) -> Iterator[Path]:
        """Iterate over paths that are files; others are unreadable."""
        for path in paths:
            if os.path.isfile(path):
                yield path
            else:
                self.unreadable.append((str(path), NO_FILE))

    def place(self, name: str) -> Path:
        """Return an example's path relative to the folder that all files have in common."""
        path = Path(os.path.abspath(name))
        if self.folder is None or not path.is_relative_to(self.folder):
            return Path(name)
        return path.relative_to(self.folder)


NO_FILE = "not a file"
"""Why a path cannot be read that is none: a pipe would be waited for."""


def _files(argument: str) -> list[Path]:
    """Find the file or the files of a pattern that an argument names; none if it is neither."""
    path = Path(argument)
    if path.exists():
        return [path]
    if glob.has_magic(argument):
        files = _matching(path)
        if not files:
            raise FileNotFoundError(f"nothing matches {argument!r}")
        return files
    if len(path.parts) > 1 or path.suffix:
        raise FileNotFoundError(f"there is no file {argument!r}")
    return []


def _matching(pattern: Path) -> list[Path]:
    """Find what matches a pattern, through no links to folders, and no hidden files."""
    parts = pattern.parts
    fixed = next(n for n, part in enumerate(parts) if glob.has_magic(part))
    base = Path(*parts[:fixed])
    found = base.glob(str(Path(*parts[fixed:])))
    return sorted(
        path
        for path in found
        if not path.is_dir() and not any(map(is_by_product, path.relative_to(base).parts))
    )
