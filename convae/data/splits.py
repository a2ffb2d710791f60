"""Images in batches: in memory where they fit, streamed from disk where they do not.

A split yields uint8 batches ``(N, C, H, W)``; `to_floats` scales them to [0, 1]. torch is imported
only to stream.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from PIL import Image, ImageOps

from convae.engine import Array, Backend
from convae.errors import UserError

Pixels: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
Labels: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]


class Split(Protocol):
    """Images that can be counted and iterated over in batches."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of one image."""

    @property
    def labels(self) -> Labels | None:
        """Class of each image, where the dataset has classes."""

    def __len__(self) -> int:
        """Return the number of images."""

    def select(self, indices: np.ndarray[Any, Any]) -> Split:
        """Select images by their positions, an (M,) array of int."""

    def fingerprint(self) -> str:
        """Return a digest that changes when an image is added, removed, replaced or moved."""

    def batches(
        self, size: int, rng: np.random.Generator | None = None, skip: int = 0
    ) -> Iterator[Pixels]:
        """Iterate over all images once, as uint8 (N, C, H, W).

        The last batch may be smaller. A generator shuffles the images; `skip` batches are left out
        at the beginning.
        """


@dataclass(frozen=True)
class InMemory:
    """A split kept in memory.

    Parameters
    ----------
    pixels : (N, C, H, W) ndarray of uint8
        The images.
    labels : (N,) ndarray of int, optional
        Their classes.
    """

    pixels: Pixels
    labels: Labels | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of one image."""
        _, channels, rows, columns = self.pixels.shape
        return channels, rows, columns

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pixels)

    def select(self, indices: np.ndarray[Any, Any]) -> InMemory:
        """See `Split`; a copy of them."""
        labels = None if self.labels is None else self.labels[indices]
        return InMemory(self.pixels[indices], labels)

    def fingerprint(self) -> str:
        """See `Split`; of the pixels themselves."""
        return _digest(str(self.pixels.shape), np.ascontiguousarray(self.pixels).data)

    def batches(
        self, size: int, rng: np.random.Generator | None = None, skip: int = 0
    ) -> Iterator[Pixels]:
        """See `Split`."""
        order = np.arange(len(self)) if rng is None else rng.permutation(len(self))
        for start in range(skip * size, len(self), size):
            yield self.pixels[order[start : start + size]]


@dataclass(frozen=True)
class Unreadable:
    """What a worker process sends instead of an image that it could not read.

    Parameters
    ----------
    reason : str
        Which image, and why.
    """

    reason: str


@dataclass(frozen=True)
class Streamed:
    """A split read from disk while it is iterated over.

    Parameters
    ----------
    dataset : torch.utils.data.Dataset
        Its items are pairs (PIL image, label).
    indices : (N,) ndarray of int
        Which of its items belong to the split.
    channels : int
        1 for grey, 3 for colour.
    image_size : int or None
        Side of the square to which images are resized and cropped.
    transposed : bool
        Whether rows and columns are exchanged in the files.
    workers : int
        Processes that read images.
    labels : (N,) ndarray of int, optional
        Classes of the images.
    """

    dataset: Any
    indices: np.ndarray[Any, Any]
    channels: int
    image_size: int | None
    transposed: bool
    workers: int
    labels: Labels | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of one image."""
        channels, rows, columns = readable(self[0]).shape
        return channels, rows, columns

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.indices)

    def __getitem__(self, position: int) -> Pixels | Unreadable:
        """Read one image ``(C, H, W)``, or report why it cannot be read."""
        index = int(self.indices[position])
        try:
            image = self.dataset[index][0]
            return to_pixels(image, self.channels, self.image_size, self.transposed)
        except (OSError, SyntaxError, ValueError, struct.error) as error:
            samples = getattr(self.dataset, "samples", None)
            which = samples[index][0] if samples else f"number {index}"
            return Unreadable(f"image {which} cannot be read ({error}); repair or remove the file")

    def select(self, indices: np.ndarray[Any, Any]) -> Streamed:
        """See `Split`."""
        labels = None if self.labels is None else self.labels[indices]
        return replace(self, indices=self.indices[indices], labels=labels)

    def fingerprint(self) -> str:
        """See `Split`; of files their names and sizes, since reading them takes long."""
        samples = getattr(self.dataset, "samples", None)
        if samples is None:
            return _digest(f"{len(self.dataset)} {self.image_size}", self.indices.tobytes())
        paths = [Path(samples[int(index)][0]) for index in self.indices]
        listed = [f"{path.parent.name}/{path.name} {path.stat().st_size}" for path in paths]
        return _digest(f"{self.channels} {self.image_size}", "\n".join(listed).encode())

    def batches(
        self, size: int, rng: np.random.Generator | None = None, skip: int = 0
    ) -> Iterator[Pixels]:
        """See `Split`; an image that cannot be read, or of another size, is a `UserError`."""
        from torch.utils.data import DataLoader

        order = np.arange(len(self)) if rng is None else rng.permutation(len(self))
        loader: Any = DataLoader(
            self,  # type: ignore[arg-type]
            batch_size=size,
            sampler=order[skip * size :].tolist(),
            num_workers=self.workers,
            collate_fn=list,
        )
        for items in loader:
            images = [readable(item) for item in items]
            shapes = sorted({image.shape[1:] for image in images})
            if len(shapes) > 1:
                raise UserError(
                    f"dataset.image_size: images differ in size, {shapes[0]} and {shapes[-1]} "
                    "(rows, columns) among others; set it, for example dataset.image_size=64"
                )
            yield np.stack(images)


def _digest(*parts: str | bytes | memoryview) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()


def readable(item: Pixels | Unreadable) -> Pixels:
    """Return what `Streamed` yields for one position, a (C, H, W) image, or raise its error."""
    if isinstance(item, Unreadable):
        raise UserError(f"dataset: {item.reason}")
    return item


@dataclass(frozen=True)
class Splits:
    """A dataset's three parts, with no image in two of them.

    Parameters
    ----------
    name : str
        Name of the dataset.
    train, validation, test : Split
        For fitting, for choosing, for reporting.
    anomalous : (N,) ndarray of bool, optional
        Which test images belong to no class that was trained on, where only some were.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    anomalous: np.ndarray[Any, np.dtype[np.bool_]] | None = None

    def fingerprints(self) -> dict[str, str]:
        """Return a digest of each part; see `Split.fingerprint`."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split.fingerprint() for name, split in parts.items()}


def to_floats(pixels: Pixels, backend: Backend, dtype: str) -> Array:
    """Scale a uint8 batch to [0, 1], as an array of the backend.

    pixels (N, C, H, W); floats, the codes of pretraining, are not scaled -> (N, C, H, W)
    """
    floats = backend.empty_batch(pixels.shape, dtype)
    floats[...] = backend.xp.asarray(pixels)
    if pixels.dtype == np.uint8:
        floats *= 1 / 255
    return floats


def to_pixels(
    image: Image.Image,
    channels: int,
    image_size: int | tuple[int, int] | None = None,
    transposed: bool = False,
) -> Pixels:
    """Convert a picture of any mode to uint8 pixels (C, H, W); of 16 bits the upper 8 are kept.

    An integer `image_size` scales the short side to it and crops the centre square; a pair scales
    and crops to (rows, columns). `transposed` exchanges rows and columns.
    """
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
        raise UserError("32 bits per channel, of unknown range; convert it to 8 or 16 bits")
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    image = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
    if image_size is not None:
        rows, columns = (image_size,) * 2 if isinstance(image_size, int) else image_size
        image = ImageOps.fit(image, (columns, rows), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.uint8)
    pixels = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
    return pixels.swapaxes(1, 2) if transposed else pixels
