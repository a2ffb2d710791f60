"""From the items of datasets to splits: how pictures are read, and which of them can be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from tqdm import tqdm

from convae.configuration import DatasetConfig
from convae.data.folders import PictureFiles
from convae.data.pictures import (
    DEEP_WHITE,
    Conversions,
    Pixels,
    Preprocessing,
    is_grey,
    largest_level,
    levels_of,
)
from convae.data.splits import InMemory, Labels, Read, Split, Streamed, Unreadable, several
from convae.data.tiling import TileStore
from convae.errors import UserError, counted, prefixed
from convae.files import printable

SAMPLED = 20
"""Images, evenly spaced, that stand for all of a dataset of torchvision, which decodes each."""


@dataclass(frozen=True)
class Dataset:
    """What a dataset itself distinguishes.

    Parameters
    ----------
    train : Split
        Images to train on.
    validation, test : Split or None
        Others, as far as the dataset has them.
    classes : sequence of str
        Names of the classes.
    how : Preprocessing
        How pictures like these become pixels; of no meaning for arrays, which are scaled later.
    notes : sequence of str
        What is worth knowing of how they were found and read.
    """

    train: Split
    validation: Split | None = None
    test: Split | None = None
    classes: Sequence[str] = ()
    how: Preprocessing = field(default_factory=Preprocessing)
    notes: Sequence[str] = ()


def read_dataset(
    datasets: dict[str, Any],
    config: DatasetConfig,
    classes: Sequence[str],
    notes: Sequence[str] = (),
    known: Sequence[tuple[str, str]] = (),
) -> Dataset:
    """Keep the parts of a dataset in memory if they fit, or stream them.

    Of some files it is `known` that they cannot be read.
    """
    raw = {part: _raw_pixels(dataset) for part, dataset in datasets.items()}
    asked = (config.image_size, config.channels)
    splits: dict[str, Any] = {}
    is_whole = config.tile is None and all(
        p is not None and asked in ((None, None), (None, p.shape[1])) for p in raw.values()
    )
    if is_whole:
        for part, pixels in raw.items():
            assert pixels is not None
            turned = pixels.swapaxes(2, 3) if config.transposed else pixels
            splits[part] = InMemory(turned, labels_of(datasets[part]))
        return Dataset(classes=classes, **splits)
    how, found = _survey(list(datasets.values()), config)
    done = Conversions()
    broken: list[tuple[str, str]] = []
    for part, dataset in datasets.items():
        stream = Streamed(dataset, np.arange(len(dataset)), how, config.workers, labels_of(dataset))
        read = _read_once if how.tiling is None else _read_tiles
        splits[part] = read(stream, config, done, broken)
    if config.strict and (broken or known):
        raise broken_error([*known, *broken])
    notes = [*notes, *found, *done.lines(), *skipped(broken)]
    return Dataset(classes=classes, how=how, notes=notes, **splits)


def broken_error(
    broken: Sequence[tuple[str, str]], noun: str = "image", verb: str = "read"
) -> UserError:
    """Name everything that cannot be read."""
    listed = "\n".join(f"  {printable(name)}: {why}" for name, why in broken)
    return UserError(
        f"dataset: {counted(len(broken), noun)} cannot be {verb}:\n{listed}\n"
        "Repair or remove them, or leave them out with dataset.strict=false"
    )


def skipped(broken: Sequence[tuple[str, str]]) -> list[str]:
    """Report each file that was left out because it cannot be read."""
    return [f"skipped, as it cannot be read: {name} ({why})" for name, why in broken]


def _survey(datasets: list[Any], config: DatasetConfig) -> tuple[Preprocessing, list[str]]:
    """Decide how a dataset's pictures are read: grey or in colour, what is black and white."""
    notes, brightest = [], 0
    levels: list[float] = []
    colours: Counter[bool] = Counter()
    with tqdm(
        _samples(datasets), desc="looking at images", unit=" images", disable=None, leave=False
    ) as bar:
        for dataset, index in bar:
            try:
                with dataset[index][0] as image:
                    colours[not is_grey(image.mode)] += 1
                    brightest = max(brightest, largest_level(image) or 0)
                    levels += levels_of(image) or ()
            except MemoryError:
                raise
            except Exception:  # of a decoder: named when all images are read
                continue
    channels = config.channels or (3 if colours[True] else 1)
    if config.channels is None and colours[True] and colours[False]:
        notes.append(
            f"{counted(colours[True], 'picture')} in colour, {colours[False]:,} in grey: all are "
            "read in colour; dataset.channels=1 makes all grey"
        )
    white = DEEP_WHITE
    if brightest:
        white = 2 ** max(8, brightest.bit_length()) - 1
        notes.append(
            f"the brightest value of 16 bits is {brightest:,}: white is {white:,}, the largest of "
            f"{white.bit_length()} bits"
        )
    range_of_levels = None
    if levels:
        is_unit = min(levels) >= 0 and max(levels) <= 1
        black, bright = (0.0, 1.0) if is_unit else (min(levels), max(levels))
        bright += float(bright == black)
        range_of_levels = black, bright
        notes.append(f"pictures of floats or 32 bits: {black:g} is black, {bright:g} is white")
    with prefixed("dataset."):
        how = Preprocessing(
            channels,
            config.size,
            config.background,
            white,
            config.transposed,
            config.fit,
            range_of_levels,
            config.tile_size,
            config.overlap,
        )
    return how, notes


def _samples(datasets: list[Any]) -> list[tuple[Any, int]]:
    """Name the images to look at: all files, whose headers are read fast, or some of the others."""
    chosen = []
    for dataset in datasets:
        count = len(dataset)
        some = count if isinstance(dataset, PictureFiles) else min(count, SAMPLED)
        chosen += [(dataset, int(n)) for n in np.linspace(0, count - 1, some).round()]
    return chosen


def _read_once(
    stream: Streamed, config: DatasetConfig, done: Conversions, broken: list[tuple[str, str]]
) -> Split:
    """Read a stream once: keep its images in memory if they fit, and find those that are broken."""
    limit = config.memory_mb * 2**20
    if not config.check and not _fits(stream, limit):
        return stream
    kept: list[Pixels] = []
    intact: list[int] = []
    shapes: Counter[tuple[int, ...]] = Counter()
    size = 0
    for position, item in _readable(stream, "reading images", broken):
        done.add(item.conversions)
        intact.append(position)
        shapes[item.pixels.shape] += 1
        size += item.pixels.nbytes
        if size <= limit:
            kept.append(item.pixels)
        else:
            kept.clear()
    if len(shapes) > 1:
        raise UserError(f"dataset.image_size: images differ in size, {several(shapes)}")
    if not intact:
        return stream.select(np.arange(0))
    if size > limit:
        return stream.select(np.array(intact))
    labels = None if stream.labels is None else stream.labels[intact]
    return InMemory(np.stack(kept), labels, stream.select(np.array(intact)).files)


def _read_tiles(
    stream: Streamed, config: DatasetConfig, done: Conversions, broken: list[tuple[str, str]]
) -> InMemory:
    """Read pictures of any size once, and cut them into tiles."""
    tiling = stream.how.tiling
    assert tiling is not None
    store = TileStore(config.memory_mb * 2**20)
    counts: list[int] = []
    intact: list[int] = []
    for position, item in _readable(stream, "cutting images", broken):
        try:
            tiles = tiling.cut(item.pixels)
        except UserError as error:
            broken.append((stream.name(int(stream.indices[position])), str(error)))
            continue
        done.add(item.conversions)
        store.add(tiles)
        intact.append(position)
        counts.append(len(tiles))
    if not intact:
        return InMemory(np.empty((0, 1, *tiling.tile), np.uint8))
    done.tiles += sum(counts)
    done.on_disk |= store.on_disk
    of_tiles = stream.select(np.repeat(intact, counts))
    groups = np.repeat(np.arange(len(intact)), counts)
    return InMemory(store.tiles(), of_tiles.labels, of_tiles.files, groups)


def _readable(
    stream: Streamed, doing: str, broken: list[tuple[str, str]]
) -> Iterator[tuple[int, Read]]:
    """Read all images in order, with a bar: their positions and pixels; the others are broken."""
    with tqdm(total=len(stream), desc=doing, unit=" images", disable=None) as bar:
        items = chain.from_iterable(stream.read(np.arange(len(stream)), 64))
        for position, item in enumerate(items):
            bar.update()
            if isinstance(item, Unreadable):
                broken.append((item.name, item.reason))
            else:
                yield position, item


def _fits(stream: Streamed, limit: int) -> bool:
    """Guess from its first image whether a split fits into memory."""
    return len(stream) * int(np.prod(stream.shape)) <= limit


def _raw_pixels(dataset: Any) -> Pixels | None:
    """Return the whole array that MNIST's, CIFAR's and similar classes hold, as (N, C, H, W)."""
    data = getattr(dataset, "data", None)
    if data is None or not hasattr(data, "shape"):
        return None
    pixels = np.asarray(data)
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4):
        return None
    if pixels.ndim == 3:
        return pixels[:, None]
    return pixels.transpose(0, 3, 1, 2) if pixels.shape[3] in (1, 3) else pixels


def labels_of(dataset: Any) -> Labels | None:
    """Return the classes of all images, where that needs no reading of images."""
    if isinstance(dataset, PictureFiles):
        return np.array([label for _, label in dataset.samples], np.int64)
    for name in ("targets", "labels", "_labels"):  # as torchvision's classes call them
        labels = getattr(dataset, name, None)
        if labels is not None:
            found = np.asarray(labels)
            if found.ndim == 2 and getattr(dataset, "compat", False):
                found = found[:, 0]  # QMNIST's other seven numbers say where a digit comes from
            if found.shape == (len(dataset),) and np.issubdtype(found.dtype, np.integer):
                return found.astype(np.int64)
    return None
