"""Pictures named on the command line: files, folders, patterns or a dataset, in batches.

They are read when they are needed, so any number of them takes the same memory.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence, UnidentifiedImageError

from convae.data.datasets import load_dataset
from convae.data.sources import is_by_product, named
from convae.data.splits import Pixels, Split, to_pixels
from convae.errors import UserError


class ImageArguments:
    """The pictures that some arguments name.

    Parameters
    ----------
    arguments : iterable of str
        Files, folders (searched at any depth), patterns with ``*``, and names of datasets.
    shape : (C, H, W) tuple of int
        Shape of the model's input; other pictures are converted to it.
    root : str
        The folder in which torchvision looks for datasets.

    Attributes
    ----------
    conversions : collections.Counter
        How many pictures were converted, by kind of conversion.
    unreadable : list of (str, str)
        Names of pictures, and arguments, that could not be read, and why.
    folder : Path or None
        The folder that all files have in common; None if there are no files.
    inputs : frozenset of str
        The files' paths, with all links resolved.

    Raises
    ------
    UserError, OSError
        If the model does not take pictures, or no argument names any.
    """

    def __init__(self, arguments: Iterable[str], shape: tuple[int, ...], root: str) -> None:
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise UserError(f"the model's input has the shape {shape}, which is not a picture's")
        self.shape = shape
        self.conversions: Counter[str] = Counter()
        self.unreadable: list[tuple[str, str]] = []
        if "" in list(arguments):
            raise UserError("IMAGES: an empty name; expected files, folders, patterns or a dataset")
        self._sources: list[list[Path] | tuple[str, Split]] = []
        arguments, errors = list(arguments), []
        for argument in arguments:
            try:
                self._sources.append(_source(argument, root))
            except (OSError, UserError) as error:
                errors.append(error)
                self.unreadable.append((argument, _reason(error)))
        if len(errors) == len(arguments):  # nothing at all to read
            raise errors[0]
        files = [path for source in self._sources if isinstance(source, list) for path in source]
        folders = {os.path.abspath(path.parent) for path in files}
        self.folder = Path(os.path.commonpath(folders)) if folders else None
        self.inputs = frozenset(os.path.realpath(path) for path in files)

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
            try:
                with Image.open(path) as image:
                    yield str(path), self._convert(image)
            except MemoryError:
                raise
            except Exception as error:  # of a decoder: it is that file's, and the others are read
                self.unreadable.append((str(path), _reason(error)))

    def _of_split(self, name: str, split: Split) -> Iterator[tuple[str, Pixels]]:
        number = 0
        for batch in split.batches(256):
            for pixels in batch:
                if pixels.shape != self.shape:
                    channels_last = pixels.transpose(1, 2, 0)
                    grey = len(pixels) == 1
                    image = Image.fromarray(channels_last[:, :, 0] if grey else channels_last)
                    pixels = self._convert(image)
                yield f"{name}/{number:05d}", pixels
                number += 1

    def _convert(self, image: Image.Image) -> Pixels:
        """Convert a picture to the model's shape, and record how."""
        channels, rows, columns = self.shape
        if getattr(image, "n_frames", 1) > 1:
            image = next(iter(ImageSequence.Iterator(image))).copy()
            self.conversions["with several frames, of which the first is used"] += 1
        image.load()
        wanted, mode = ("L", "grey") if channels == 1 else ("RGB", "colour")
        if image.mode.startswith("I"):
            self.conversions["of 16 bits, of which the upper 8 are used"] += 1
        elif image.mode != wanted:
            self.conversions[f"of mode {image.mode} converted to {mode}"] += 1
        pixels = to_pixels(image, channels)
        if pixels.shape != self.shape:
            size = f"{pixels.shape[2]}x{pixels.shape[1]} to {columns}x{rows} pixels"
            self.conversions[f"scaled, and cropped to the centre where needed, from {size}"] += 1
            pixels = to_pixels(image, channels, (rows, columns))
        return pixels


def _source(argument: str, root: str) -> list[Path] | tuple[str, Split]:
    """Find the files of an argument, or the test images of the dataset that it names."""
    return found_files(argument) or (argument.lower(), load_dataset(named(argument, root)).test)


def found_files(argument: str) -> list[Path]:
    """Find the files that an argument names; none if it is not a file, a folder or a pattern."""
    path = Path(argument)
    if path.is_dir():
        endings = {e for e, kind in Image.registered_extensions().items() if kind in Image.OPEN}
        found = (p for p in path.rglob("*") if p.suffix.lower() in endings and p.is_file())
        files = sorted(p for p in found if not is_by_product(p, path))
        if not files:
            raise FileNotFoundError(f"no pictures in the folder {argument!r}")
        return files
    if path.exists():
        return [path]
    if glob.has_magic(argument):
        files = sorted(Path(p) for p in glob.glob(argument, recursive=True) if Path(p).is_file())
        if not files:
            raise FileNotFoundError(f"nothing matches {argument!r}")
        return files
    if len(path.parts) > 1 or path.suffix:
        raise FileNotFoundError(f"there is no file {argument!r}")
    return []


def _reason(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not a picture of a known format"
    return " ".join(str(error).split()) or type(error).__name__
