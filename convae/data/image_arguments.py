"""Pictures named on the command line, in batches."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from convae.data.datasets import load_dataset
from convae.data.folders import endings
from convae.data.named_files import NO_FILE, WHOLE, Arguments, Shard, Source
from convae.data.picture_tables import TABLES_OF_PICTURES, read_table
from convae.data.pictures import Conversions, Pixels, Preprocessing, open_picture, reason
from convae.data.reading_ahead import in_threads
from convae.data.sources import named
from convae.data.splits import Split
from convae.errors import UserError


class ImageArguments(Arguments):
    """The pictures that some arguments name; see `Arguments`.

    Parameters
    ----------
    arguments : iterable of str
        Files, folders, patterns and names of datasets.
    how : Preprocessing
        How they become pixels of the one size that the model takes.
    root : str
        The folder in which torchvision looks for datasets.
    shard : Shard
        Which part of them is wanted.
    """

    what = "pictures"

    def __init__(
        self, arguments: Iterable[str], how: Preprocessing, root: str, shard: Shard = WHOLE
    ) -> None:
        self.how = how
        super().__init__(arguments, root, shard)

    @property
    def endings(self) -> Collection[str]:
        """See `Arguments`."""
        return endings()

    def dataset(self, name: str, root: str) -> Split:
        """See `Arguments`."""
        data = load_dataset(named(name, root))
        if not isinstance(data.how, Preprocessing):
            raise UserError(f"{name!r} holds arrays, and the model takes pictures")
        return data.test

    def _source(self, argument: str, root: str) -> Source:
        """Find pictures; those that a table names are its, as of a dataset."""
        path = Path(argument)
        if path.is_file() and path.suffix.lower() in TABLES_OF_PICTURES:
            return [row.path for row in read_table(path)]
        return super()._source(argument, root)

    def total(self) -> int:
        """See `Arguments`."""
        return sum(map(self.units, self.sources))

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
        for source in self.sources:
            yield from (
                self._of_files(source) if isinstance(source, list) else self._of_split(*source)
            )

    def _of_files(self, paths: list[Path]) -> Iterator[tuple[str, Pixels]]:
        for path, read in zip(paths, in_threads(self._read, paths), strict=True):
            if isinstance(read, str):
                self.unreadable.append((str(path), read))
                continue
            pixels, done = read
            self.conversions.add(done)
            yield str(path), pixels

    def _read(self, path: Path) -> tuple[Pixels, Conversions] | str:
        """Read a picture, or say why it cannot be read."""
        if not os.path.isfile(path):
            return NO_FILE
        try:
            with open_picture(path) as image:
                return self.how(image)
        except MemoryError:
            raise
        except Exception as error:  # of a decoder: it is that file's, and the others are read
            return reason(error)

    def _of_split(self, name: str, split: Split, number: int) -> Iterator[tuple[str, Pixels]]:
        for batch in split.batches(256):
            for pixels in batch:
                image = Image.fromarray(
                    pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
                )
                converted, done = self.how(image)
                self.conversions.add(done)
                yield f"{name}/{number:05d}", converted
                number += 1
