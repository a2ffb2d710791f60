"""Pictures named on the command line: files, folders, patterns or a dataset, in batches.

They are read when they are needed, so any number of them takes the same memory.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from convae.data.datasets import load_dataset
from convae.data.folders import find_pictures, is_by_product
from convae.data.pictures import Conversions, Pixels, Preprocessing, open_picture, reason
from convae.data.sources import named
from convae.data.splits import Split
from convae.errors import UserError


class ImageArguments:
    """The pictures that some arguments name.

    Parameters
    ----------
    arguments : iterable of str
        Files, folders (searched at any depth), patterns with ``*``, and names of datasets.
    how : Preprocessing
        How they become pixels of the one size that the model takes.
    root : str
        The folder in which torchvision looks for datasets.

    Attributes
    ----------
    conversions : Conversions
        What was done to the pictures read so far.
    left_out : list of str
        For each folder, which of its files were left out.
    unreadable : list of (str, str)
        Names of pictures, and arguments, that could not be read, and why.
    folder : Path or None
        The folder that all files have in common; None if there are no files.
    inputs : frozenset of str
        The files' paths, with all links resolved.

    Raises
    ------
    UserError, OSError
        If no argument names any.
    """

    def __init__(self, arguments: Iterable[str], how: Preprocessing, root: str) -> None:
        self.how = how
        self.conversions = Conversions()
        self.left_out: list[str] = []
        self.unreadable: list[tuple[str, str]] = []
        arguments, errors = list(arguments), []
        if not arguments or "" in arguments:
            raise UserError("IMAGES: an empty name; expected files, folders, patterns or a dataset")
        self._sources: list[list[Path] | tuple[str, Split]] = []
        for argument in arguments:
            try:
                self._sources.append(self._source(argument, root))
            except (OSError, UserError) as error:
                errors.append(error)
                self.unreadable.append((argument, reason(error)))
        if len(errors) == len(arguments):  # nothing at all to read
            raise errors[0]
        files = [path for source in self._sources if isinstance(source, list) for path in source]
        folders = {os.path.abspath(path.parent) for path in files}
        self.folder = Path(os.path.commonpath(folders)) if folders else None
        self.inputs = frozenset(os.path.realpath(path) for path in files)

    def _source(self, argument: str, root: str) -> list[Path] | tuple[str, Split]:
        """Find the files of an argument, or the test images of the dataset that it names."""
        path = Path(argument)
        if path.is_dir():
            found = find_pictures(path)
            self.unreadable += found.unreadable
            if left_out := found.describe_left_out():
                self.left_out.append(f"{argument}: {left_out}")
            if not found.files:
                raise FileNotFoundError(f"no pictures in the folder {argument!r}")
            return found.files
        return _files(argument) or (argument.lower(), load_dataset(named(argument, root)).test)

    def __len__(self) -> int:
        """Return the number of pictures, readable or not."""
        return sum(len(s) if isinstance(s, list) else len(s[1]) for s in self._sources)

    def place(self, name: str) -> Path:
        """Return a picture's path relative to the folder that all files have in common."""
        path = Path(os.path.abspath(name))
        if self.folder is None or not path.is_relative_to(self.folder):
            return Path(name)
        return path.relative_to(self.folder)

    def batches(self, size: int) -> Iterator[tuple[list[str], Pixels]]:
        """Iterate over all pictures once: their names, and uint8 pixels (N, C, H, W).

        A batch has fewer than `size` pictures where some cannot be read.
        """
        names: list[str] = []
        batch: list[Pixels] = []
        for name, pixels in self._all():
            names.append(name)
            batch.append(pixels)
            if len(batch) == size:
                yield names, np.stack(batch)
                names, batch = [], []
        if batch:
            yield names, np.stack(batch)

    def _all(self) -> Iterator[tuple[str, Pixels]]:
        for source in self._sources:
            yield from (
                self._of_files(source) if isinstance(source, list) else self._of_split(*source)
            )

    def _of_files(self, paths: list[Path]) -> Iterator[tuple[str, Pixels]]:
        for path in paths:
            if not os.path.isfile(path):  # a pipe would be waited for
                self.unreadable.append((str(path), "not a file"))
                continue
            try:
                with open_picture(path) as image:
                    pixels, done = self.how(image)
            except MemoryError:
                raise
            except Exception as error:  # of a decoder: it is that file's, and the others are read
                self.unreadable.append((str(path), reason(error)))
                continue
            self.conversions.add(done)
            yield str(path), pixels

    def _of_split(self, name: str, split: Split) -> Iterator[tuple[str, Pixels]]:
        number = 0
        for batch in split.batches(256):
            for pixels in batch:
                image = Image.fromarray(
                    pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
                )
                converted, done = self.how(image)
                self.conversions.add(done)
                yield f"{name}/{number:05d}", converted
                number += 1


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
