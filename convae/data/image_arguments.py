"""Pictures named on the command line, in batches."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from convae.data.datasets import load_dataset
from convae.data.folders import endings
from convae.data.named_files import Arguments
from convae.data.pictures import Pixels, Preprocessing, open_picture, reason
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
    """

    what = "pictures"

    def __init__(self, arguments: Iterable[str], how: Preprocessing, root: str) -> None:
        self.how = how
        super().__init__(arguments, root)

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

    def total(self) -> int:
        """See `Arguments`."""
        return sum(len(s) if isinstance(s, list) else len(s[1]) for s in self.sources)

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
        for path in self.existing(paths):
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
