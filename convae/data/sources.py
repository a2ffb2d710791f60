"""Where images come from: scikit-learn's bundled ones, torchvision's datasets, folders of pictures.

torch and torchvision are imported only where they are used.
"""

from __future__ import annotations

import inspect
import os
import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from convae.configuration import BUILT_IN, DatasetConfig
from convae.data.folders import (
    Found,
    PictureFiles,
    class_of,
    endings,
    find_pictures,
    halves,
    is_by_product,
)
from convae.data.pictures import (
    DEEP_WHITE,
    Conversions,
    Pixels,
    Preprocessing,
    is_grey,
    largest_level,
)
from convae.data.splits import InMemory, Labels, Split, Streamed, Unreadable, several
from convae.errors import UserError, prefixed

EXTRA_ARGUMENTS = {"EMNIST": {"split": "balanced"}}
"""Arguments that a dataset of torchvision needs beside those that select a half."""

UNREADABLE = (ValueError, EOFError, LookupError, AssertionError, struct.error, zlib.error)
"""What torchvision raises for files that are not what they should be."""

SAMPLED = 20
"""Images, evenly spaced, that stand for all of a dataset of torchvision, which decodes each."""

MOST_CLASSES = 20
"""Classes of which each is reported with its number of pictures."""

PHOTO_PATCH = 32
"""Side of the patches cut from the two photographs, in pixels."""


@dataclass(frozen=True)
class Parts:
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
        How pictures like these become pixels.
    notes : sequence of str
        What is worth knowing of how they were found and read.
    """

    train: Split
    validation: Split | None = None
    test: Split | None = None
    classes: Sequence[str] = ()
    how: Preprocessing = field(default_factory=Preprocessing)
    notes: Sequence[str] = ()


def named(name: str, root: str = "data") -> DatasetConfig:
    """Configure a dataset by its name alone, where its constructor follows the usual pattern."""
    if name.lower() in BUILT_IN:
        return DatasetConfig(name=name.lower())
    from torchvision import datasets

    by_name = {known.lower(): known for known in datasets.__all__}
    found = by_name.get(name.lower())
    if found is None or found == "ImageFolder":
        raise UserError(f"{name!r} is neither a file, a folder, nor a dataset by name")
    parameters = inspect.signature(getattr(datasets, found)).parameters
    extra = EXTRA_ARGUMENTS.get(found, {})
    if "train" in parameters or found == "EMNIST":
        both: list[dict[str, Any]] = [{"train": True}, {"train": False}]
    elif "split" in parameters:
        both = [{"split": "train"}, {"split": "test"}]
    else:
        raise UserError(f"{found} of torchvision has no test images that its name alone selects")
    train, test = (extra | half for half in both)
    transposed = found == "EMNIST"
    return DatasetConfig(name=found, root=root, train=train, test=test, transposed=transposed)


def read_parts(config: DatasetConfig) -> Parts:
    """Read the parts that a dataset itself distinguishes."""
    if config.name == "photos":
        return Parts(*_photos())
    if config.name == "digits":
        return Parts(_digits(), classes=[str(digit) for digit in range(10)])
    if config.name == "ImageFolder":
        return _image_folder(config)
    if config.test is not None and config.train == config.test:
        raise UserError(
            f"dataset.train, dataset.test: both select the same images, {config.train}; set "
            "what distinguishes them, as in +dataset.train.split=train +dataset.test.split=test, "
            "or dataset.test=null to set part of the training images aside"
        )
    datasets = {"train": _torchvision(config, config.train)}
    if config.test is not None:
        datasets["test"] = _torchvision(config, config.test)
    return _read(
        datasets, config, [str(name) for name in getattr(datasets["train"], "classes", [])]
    )


def _digits() -> InMemory:
    """Read the 1,797 handwritten digits of 8x8 pixels bundled with scikit-learn (UCI, 1998)."""
    from sklearn.datasets import load_digits

    digits = load_digits()  # images (1797, 8, 8), 0 to 16
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    return InMemory(pixels, digits.target.astype(np.int64))


def _photos() -> tuple[InMemory, InMemory, InMemory]:
    """Cut scikit-learn's two photographs into patches; each split uses a separate strip."""
    from sklearn.datasets import load_sample_images

    def patches(first: float, last: float, step: int) -> InMemory:
        cut = []
        for photo in load_sample_images().images:  # (427, 640, 3) uint8
            strip = photo[:, round(first * photo.shape[1]) : round(last * photo.shape[1])]
            view = np.lib.stride_tricks.sliding_window_view(strip, (PHOTO_PATCH,) * 2, (0, 1))
            cut.append(view[::step, ::step].reshape(-1, 3, PHOTO_PATCH, PHOTO_PATCH))
        return InMemory(np.concatenate(cut))

    return patches(0, 0.6, 8), patches(0.6, 0.8, 16), patches(0.8, 1, 16)


def _torchvision(config: DatasetConfig, arguments: dict[str, Any]) -> Any:
    """Open a dataset of torchvision, downloading it only where its files are missing."""
    from torchvision import datasets

    known = [name for name in datasets.__all__ if inspect.isclass(getattr(datasets, name))]
    if config.name not in known:
        raise UserError(
            f"dataset.name: {config.name!r} is unknown; expected {', '.join(BUILT_IN)}, "
            f"or a class of torchvision.datasets: {', '.join(known)}"
        )
    build = getattr(datasets, config.name)
    if next(iter(inspect.signature(build).parameters)) != "root":
        raise UserError(f"dataset.name: {config.name} reads no files from a folder; choose another")
    try:
        return build(config.root, **arguments)
    except TypeError as error:
        raise UserError(
            f"dataset: {config.name} rejects the arguments {arguments} ({error}); "
            "set dataset.train and dataset.test to what its constructor takes"
        ) from None
    except (RuntimeError, OSError) as error:  # torchvision's way to report missing files
        reason = str(error)
    except UNREADABLE as error:
        raise _damaged(config, error) from None
    root = Path(config.root)
    before = set(root.rglob("*")) if root.is_dir() else set()
    try:
        return build(config.root, **arguments, download=True)
    except UNREADABLE as error:
        raise _damaged(config, error) from None
    except (RuntimeError, OSError, TypeError) as error:
        if str(error) == reason:  # the files are there, so that nothing was downloaded
            raise _damaged(config, error) from None
        _remove_empty_folders(root, before)
        raise FileNotFoundError(
            f"dataset: {config.name} was not found under {config.root!r} and cannot be downloaded "
            f"({error}). Put its files there as torchvision keeps them, or point to them with "
            "dataset.root=<folder> (convae: --root <folder>); dataset=digits needs no download"
        ) from None


def _damaged(config: DatasetConfig, error: Exception) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(
        f"dataset: {config.name}'s files under {config.root!r} are damaged ({reason}); remove them "
        "to have them downloaded again, or replace them by whole ones"
    )


def _remove_empty_folders(root: Path, before: set[Path]) -> None:
    """Remove the folders that a download that failed has left."""
    for path in sorted(set(root.rglob("*")) - before, reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    if root.is_dir() and not before and not any(root.iterdir()):
        root.rmdir()


def _image_folder(config: DatasetConfig) -> Parts:
    """Read a folder of pictures, with or without folders for training and test images inside."""
    root = Path(config.root)
    if not root.is_dir():
        raise FileNotFoundError(f"dataset.root: there is no folder {config.root!r}")
    folders = halves(root)
    found = {part: _find(folder, config) for part, folder in folders.items()}
    _refuse_shared({part: each.files for part, each in found.items()})
    names = {
        part: [class_of(path, folders[part]) for path in each.files] for part, each in found.items()
    }
    classes = sorted({name for of_part in names.values() for name in of_part})
    datasets = {
        part: PictureFiles(
            [(str(path), classes.index(n)) for path, n in zip(each.files, names[part], strict=True)]
        )
        for part, each in found.items()
    }
    notes = [note for part in found for note in _describe(folders[part], found[part], names[part])]
    return _read(datasets, config, classes, notes)


def _find(folder: Path, config: DatasetConfig) -> Found:
    """Find the pictures of a folder; what cannot be read is an error, or skipped if told to."""
    found = find_pictures(folder)
    if found.unreadable and not config.skip_broken:
        raise _broken(found.unreadable)
    if not found.files:
        left_out = found.describe_left_out()
        raise FileNotFoundError(
            f"dataset.root: no pictures under {str(folder)!r}, of the endings "
            f"{' '.join(sorted(endings()))}{f'; it holds {left_out}' if left_out else ''}"
        )
    return found


def _refuse_shared(files: dict[str, list[Path]]) -> None:
    """Refuse pictures that links put into two halves of a dataset."""
    of_part = {part: {os.path.realpath(path) for path in paths} for part, paths in files.items()}
    parts = list(of_part)
    for n, first in enumerate(parts):
        for second in parts[n + 1 :]:
            if shared := of_part[first] & of_part[second]:
                raise UserError(
                    f"dataset.root: {len(shared)} pictures, such as {min(shared)!r}, are among the "
                    f"{first} and the {second} images through links; remove them from one of them"
                )


def _describe(folder: Path, found: Found, names: list[str]) -> list[str]:
    """Report how many pictures of which class a folder holds, and what was left out."""
    counts = Counter(names)
    shown = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())[:MOST_CLASSES])
    more = len(counts) - MOST_CLASSES
    classes = f" in {len(counts)} classes: {shown}{f' and {more} more' if more > 0 else ''}"
    notes = [f"{folder}: {len(names):,} pictures{'' if set(counts) == {'.'} else classes}"]
    empty = sorted(
        path.name
        for path in folder.iterdir()
        if path.is_dir() and path.name not in counts and not is_by_product(path.name)
    )
    if empty:
        notes.append(f"without pictures: {', '.join(empty)}")
    if left_out := found.describe_left_out():
        notes.append(f"left out: {left_out}")
    notes += _skipped(found.unreadable)
    return notes


def _broken(broken: Sequence[tuple[str, str]]) -> UserError:
    """Name all files that cannot be read."""
    listed = "\n".join(f"  {name}: {why}" for name, why in broken)
    return UserError(
        f"dataset: {len(broken):,} images cannot be read:\n{listed}\n"
        "Repair or remove them, or leave them out with dataset.skip_broken=true"
    )


def _skipped(broken: Sequence[tuple[str, str]]) -> list[str]:
    return [f"skipped, as it cannot be read: {name} ({why})" for name, why in broken]


def _read(
    datasets: dict[str, Any],
    config: DatasetConfig,
    classes: Sequence[str],
    notes: Sequence[str] = (),
) -> Parts:
    """Keep the parts of a dataset in memory if they fit, or stream them."""
    raw = {part: _raw_pixels(dataset) for part, dataset in datasets.items()}
    asked = (config.image_size, config.channels)
    splits: dict[str, Any] = {}
    if all(p is not None and asked in ((None, None), (None, p.shape[1])) for p in raw.values()):
        for part, pixels in raw.items():
            assert pixels is not None
            turned = pixels.swapaxes(2, 3) if config.transposed else pixels
            splits[part] = InMemory(turned, _labels(datasets[part]))
        return Parts(classes=classes, **splits)
    how, said = _survey(list(datasets.values()), config)
    done = Conversions()
    broken: list[tuple[str, str]] = []
    for part, dataset in datasets.items():
        stream = Streamed(dataset, np.arange(len(dataset)), how, config.workers, _labels(dataset))
        splits[part] = _checked(stream, config, done, broken)
    if broken and not config.skip_broken:
        raise _broken(broken)
    notes = [*notes, *said, *done.lines(), *_skipped(broken)]
    return Parts(classes=classes, how=how, notes=notes, **splits)


def _survey(datasets: list[Any], config: DatasetConfig) -> tuple[Preprocessing, list[str]]:
    """Decide how a dataset's pictures are read: grey or in colour, and what is white in 16 bits."""
    notes, brightest = [], 0
    colours: Counter[bool] = Counter()
    with tqdm(
        _samples(datasets), desc="looking at images", unit=" images", disable=None, leave=False
    ) as bar:
        for dataset, index in bar:
            try:
                with dataset[index][0] as image:
                    colours[not is_grey(image.mode)] += 1
                    brightest = max(brightest, largest_level(image) or 0)
            except MemoryError:
                raise
            except Exception:  # of a decoder: named when all images are read
                continue
    channels = config.channels or (3 if colours[True] else 1)
    if config.channels is None and colours[True] and colours[False]:
        notes.append(
            f"{colours[True]:,} pictures in colour and {colours[False]:,} grey ones: all are read "
            "in colour; dataset.channels=1 makes all grey"
        )
    white = DEEP_WHITE
    if brightest:
        white = 2 ** max(8, brightest.bit_length()) - 1
        notes.append(
            f"the brightest value of 16 bits is {brightest:,}: white is {white:,}, the largest of "
            f"{white.bit_length()} bits"
        )
    size = None if config.image_size is None else (config.image_size, config.image_size)
    with prefixed("dataset."):
        how = Preprocessing(channels, size, config.background, white, config.transposed)
    return how, notes


def _samples(datasets: list[Any]) -> list[tuple[Any, int]]:
    """Name the images to look at: all files, whose headers are read fast, or some of the others."""
    chosen = []
    for dataset in datasets:
        count = len(dataset)
        some = count if isinstance(dataset, PictureFiles) else min(count, SAMPLED)
        chosen += [(dataset, int(n)) for n in np.linspace(0, count - 1, some).round()]
    return chosen


def _checked(
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
    with tqdm(total=len(stream), desc="reading images", unit=" images", disable=None) as bar:
        for position, item in enumerate(_items(stream)):
            bar.update()
            if isinstance(item, Unreadable):
                broken.append((item.name, item.reason))
                continue
            done.add(item.conversions)
            intact.append(position)
            shapes[item.pixels.shape] += 1
            size += item.pixels.nbytes
            if size <= limit:
                kept.append(item.pixels)
    if len(shapes) > 1:
        raise UserError(f"dataset.image_size: images differ in size, {several(shapes)}")
    if not intact:
        return stream.select(np.arange(0))
    if size > limit:
        return stream.select(np.array(intact))
    labels = None if stream.labels is None else stream.labels[intact]
    return InMemory(np.stack(kept), labels)


def _items(stream: Streamed) -> Iterator[Any]:
    for items in stream.read(np.arange(len(stream)), 64):
        yield from items


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


def _labels(dataset: Any) -> Labels | None:
    """Return the classes of all images, where that needs no reading of images."""
    if isinstance(dataset, PictureFiles):
        return np.array([label for _, label in dataset.samples], np.int64)
    for name in ("targets", "labels", "_labels"):  # as torchvision's classes call them
        labels = getattr(dataset, name, None)
        if labels is not None:
            found = np.asarray(labels)
            if found.shape == (len(dataset),) and np.issubdtype(found.dtype, np.integer):
                return found.astype(np.int64)
    return None
