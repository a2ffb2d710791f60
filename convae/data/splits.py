"""Examples in batches: in memory where they fit, streamed from disk where they do not.

Pictures come as uint8 batches ``(N, C, H, W)``, which `convae.data.pictures.to_floats` scales to
[0, 1]; arrays as floats ``(N, C, *size)``, scaled already. torch is imported only to stream.
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from convae.data.pictures import Conversions, Pixels, Preprocessing, reason
from convae.data.scaling import Scaling
from convae.engine import array_module
from convae.errors import UserError
from convae.processes import Group, Share

Labels: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
Files: TypeAlias = np.ndarray[Any, np.dtype[np.str_]]
Order: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
"""Positions of examples, (N,), each once."""


KINDS = {1: "signal", 2: "image", 3: "volume"}
"""What an example is called, by its axes of positions."""


def kind(shape: Sequence[int]) -> str:
    """Name, in the singular, what examples of a shape (C, *size) are."""
    return KINDS[len(shape) - 1]


def unit(batch: Any) -> float:
    """Return what scales a batch's values to [0, 1]: those of bytes are 0 to 255."""
    return 1 / 255 if batch.dtype == np.uint8 else 1.0


def groups_of(split: Split) -> Labels | None:
    """Return which picture each image is a tile of, numbered; None where images are whole."""
    return getattr(split, "groups", None)


def noun(split: Split) -> str:
    """Name, in the singular, what a split's examples are."""
    return kind(split.shape) if groups_of(split) is None else "tile"


def of_pictures(split: Split, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return what all tiles of a picture share, once for each: (N,) -> (pictures,)."""
    groups = groups_of(split)
    return values if groups is None else values[np.unique(groups, return_index=True)[1]]


class Split(Protocol):
    """Images, or other examples, that can be counted and iterated over in batches."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels and positions, such as rows and columns, of one image."""

    @property
    def labels(self) -> Labels | None:
        """Class of each image, where the dataset has classes."""

    @property
    def files(self) -> Files | None:
        """File of each image, where each has one."""

    def __len__(self) -> int:
        """Return the number of images."""

    def select(self, indices: np.ndarray[Any, Any]) -> Split:
        """Select images by their positions, an (M,) array of int."""

    def fingerprint(self) -> str:
        """Return a digest that changes when an image is added, removed, replaced or moved."""

    def batches(self, size: int, order: Order | None = None, skip: int = 0) -> Iterator[Pixels]:
        """Iterate over all images once, as uint8 (N, C, H, W); other examples as floats.

        The last batch may be smaller. They come in the order of their positions, or in another
        that is given, perhaps of some only; `skip` batches are left out at the beginning.
        """


class OwnBatch(NamedTuple):
    """What a process has of a batch: pixels, their positions in the split, and its share."""

    pixels: Pixels
    positions: Order
    share: Share


def own_batches(
    split: Split, size: int, group: Group, order: Order | None = None, skip: int = 0
) -> Iterator[OwnBatch]:
    """Iterate over a process's shares of all batches; it reads no others. See `Split.batches`."""
    order = np.arange(len(split)) if order is None else order
    wholes = [order[start : start + size] for start in range(0, len(split), size)]
    shares = [group.share(len(whole)) for whole in wholes]
    own = [whole[share.rows] for whole, share in zip(wholes, shares, strict=True)]
    length = max(group.share(size).count, 1)  # of all but the last, which may be shorter
    batches = split.batches(length, np.concatenate(own), skip)
    for pixels, positions, share in zip(batches, own[skip:], shares[skip:], strict=True):
        yield OwnBatch(pixels, positions, share)


def shuffled(split: Split, rng: np.random.Generator) -> Order:
    """Draw an order of a split's images.

    Those that are read from shards come from a few of these at a time, which are drawn first.
    """
    shards = getattr(split, "shards", None)
    if shards is None:
        return rng.permutation(len(split))
    turn = rng.permutation(shards.max() + 1)[shards] // TOGETHER
    return np.lexsort((rng.random(len(split)), turn))


TOGETHER = 8
"""Shards from which images come in random order."""


def sample(split: Split, images: int) -> Split:
    """Draw at most so many images at random, always the same ones; they stay in order."""
    if images >= len(split):
        return split
    return split.select(np.sort(np.random.default_rng(0).permutation(len(split))[:images]))


@dataclass(frozen=True)
class InMemory:
    """A split kept in memory.

    Parameters
    ----------
    pixels : (N, C, *size) ndarray of uint8
        The images; or examples as floats, which are taken as they are.
    labels : (N,) ndarray of int, optional
        Their classes.
    files : (N,) ndarray of str, optional
        The files that they come from.
    groups : (N,) ndarray of int, optional
        The pictures that they are tiles of, numbered; tiles of one follow each other.
    """

    pixels: Pixels
    labels: Labels | None = None
    files: Files | None = None
    groups: Labels | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Split`."""
        shape: tuple[int, ...] = self.pixels.shape[1:]
        return shape

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pixels)

    def select(self, indices: np.ndarray[Any, Any]) -> InMemory:
        """See `Split`; a copy of them."""
        labels = None if self.labels is None else self.labels[indices]
        files = None if self.files is None else self.files[indices]
        groups = None if self.groups is None else self.groups[indices]
        return InMemory(self.pixels[indices], labels, files, groups)

    def fingerprint(self) -> str:
        """See `Split`; of the pixels themselves."""
        return digest(str(self.pixels.shape), np.ascontiguousarray(self.pixels).data)

    def batches(self, size: int, order: Order | None = None, skip: int = 0) -> Iterator[Pixels]:
        """See `Split`."""
        order = np.arange(len(self)) if order is None else order
        order = array_module(self.pixels).asarray(order)
        for start in range(skip * size, len(order), size):
            yield self.pixels[order[start : start + size]]

    def on(self, xp: ModuleType) -> InMemory:
        """Copy the images to where arrays of a library are, such as a GPU's memory.

        Parameters
        ----------
        xp : module
            ``numpy`` or ``cupy``.

        Returns
        -------
        InMemory
            The same images; its batches are arrays of the library.
        """
        return InMemory(xp.asarray(self.pixels), self.labels, self.files, self.groups)


class Read(NamedTuple):
    """An image, and what was done to it."""

    pixels: Pixels
    conversions: Conversions


class Unreadable(NamedTuple):
    """What stands for an image that cannot be read, and passes from one process to another."""

    name: str
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
    how : Preprocessing
        How they become pixels.
    workers : int
        Processes that read images.
    labels : (N,) ndarray of int, optional
        Classes of the images.
    """

    dataset: Any
    indices: np.ndarray[Any, Any]
    how: Preprocessing
    workers: int
    labels: Labels | None = None

    @property
    def files(self) -> Files | None:
        """The files of the images, where each has one."""
        samples = getattr(self.dataset, "samples", None)
        if samples is None:
            return None
        return np.array([str(samples[int(index)][0]) for index in self.indices])

    @property
    def shards(self) -> Labels | None:
        """The numbers of the shards that images are read from, where they are in shards."""
        shards = getattr(self.dataset, "shards", None)
        return None if shards is None else shards[self.indices]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of one image."""
        (first,) = _pixels([self[0]])
        channels, rows, columns = first.shape
        return channels, rows, columns

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.indices)

    def __getitem__(self, position: int) -> Read | Unreadable:
        """Read one image, or report why it cannot be read."""
        index = int(self.indices[position])
        try:
            with self.dataset[index][0] as image:
                return Read(*self.how(image))
        except MemoryError:
            raise
        except Exception as error:  # of a decoder: it is that image's
            return Unreadable(self.name(index), reason(error))

    def name(self, index: int) -> str:
        """Name an item of the dataset by its file, or by its number."""
        if (own := getattr(self.dataset, "name", None)) is not None:
            return str(own(index))
        samples = getattr(self.dataset, "samples", None)
        return str(samples[index][0]) if samples else f"number {index}"

    def select(self, indices: np.ndarray[Any, Any]) -> Streamed:
        """See `Split`."""
        labels = None if self.labels is None else self.labels[indices]
        return replace(self, indices=self.indices[indices], labels=labels)

    def fingerprint(self) -> str:
        """See `Split`; of files their names, sizes and ends, since reading them takes long."""
        files = self.files
        if (own := getattr(self.dataset, "fingerprint", None)) is not None:
            return digest(str(self.how), own(), self.indices.tobytes())
        if files is None:
            return digest(f"{len(self.dataset)} {self.how}", self.indices.tobytes())
        signatures = [part for path in files for part in signature(Path(path))]
        return digest(str(self.how), *signatures)

    def batches(self, size: int, order: Order | None = None, skip: int = 0) -> Iterator[Pixels]:
        """See `Split`; an image that cannot be read, or of another size, is a `UserError`."""
        order = np.arange(len(self)) if order is None else order
        for items in self.read(order[skip * size :], size):
            images = _pixels(items)
            shapes = {image.shape for image in images}
            if len(shapes) > 1:
                raise UserError(f"dataset.image_size: images differ in size, {several(shapes)}")
            yield np.stack(images)

    def read(self, order: np.ndarray[Any, Any], size: int) -> Iterator[list[Read | Unreadable]]:
        """Iterate over images in an order of their positions, in lists of `size`."""
        from torch.utils.data import DataLoader

        yield from DataLoader(
            self,  # type: ignore[arg-type]
            batch_size=size,
            sampler=order.tolist(),
            num_workers=self.workers,
            collate_fn=list,
            worker_init_fn=_leave_signals_to_the_run,
        )


def _leave_signals_to_the_run(number: int) -> None:
    """Have a worker process ignore what is sent to all of a run, which ends it by itself."""
    for received in (signal.SIGINT, signal.SIGTERM):
        signal.signal(received, signal.SIG_IGN)


def _pixels(items: Iterable[Read | Unreadable]) -> list[Pixels]:
    """Return the pixels of images, or raise the error of one that cannot be read."""
    for item in items:
        if isinstance(item, Unreadable):
            raise UserError(
                f"dataset: image {item.name} cannot be read ({item.reason}); repair or remove the "
                "file"
            )
    return [item.pixels for item in items if isinstance(item, Read)]


def several(shapes: Iterable[tuple[int, ...]]) -> str:
    """Say which sizes there are and what to do, for images that have to have one."""
    sizes = sorted({shape[1:] for shape in shapes})
    return (
        f"such as {' and '.join(f'{columns}x{rows}' for rows, columns in sizes[:2])} pixels; set "
        "it, for example dataset.image_size=64"
    )


SAMPLE = 4096
"""Bytes at both ends of a file by which it is recognised."""


def signature(path: Path) -> tuple[bytes, bytes]:
    """Return a file's name, class and size, and the bytes at its ends."""
    size = path.stat().st_size
    with path.open("rb") as file:
        ends = file.read(SAMPLE)
        file.seek(max(size - SAMPLE, 0))
        ends += file.read(SAMPLE)
    return os.fsencode(f"{path.parent.name}/{path.name} {size}\n"), ends


def digest(*parts: str | bytes | memoryview) -> str:
    """Return a digest of all parts in their order."""
    made = hashlib.blake2b(digest_size=16)
    for part in parts:
        made.update(part.encode() if isinstance(part, str) else part)
    return made.hexdigest()


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
    classes : tuple of str
        Names of the classes, by their numbers; empty if there are none.
    how : Preprocessing or Scaling, optional
        How pictures like these become pixels, or arrays examples.
    masks : sequence of Path or None, optional
        For each test image the file that marks what is anomalous in it, where there is one.
    notes : tuple of str
        What is worth knowing of how they were found and read.
    name_of : callable, optional
        Of arrays, names a test example by its position.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    anomalous: np.ndarray[Any, np.dtype[np.bool_]] | None = None
    classes: tuple[str, ...] = ()
    how: Preprocessing | Scaling | None = None
    masks: Sequence[Path | None] | None = None
    notes: tuple[str, ...] = ()
    name_of: Callable[[int], str] | None = None

    def fingerprints(self) -> dict[str, str]:
        """Return a digest of each part; see `Split.fingerprint`."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split.fingerprint() for name, split in parts.items()}
