"""Where images come from: scikit-learn's, torchvision's, classes and folders of your own.

torch and torchvision are imported only where they are used.
"""

from __future__ import annotations

import inspect
import os
import struct
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from convae.configuration import BUILT_IN, DatasetConfig
from convae.data.array_reading import read_arrays
from convae.data.custom import is_custom, open_custom
from convae.data.folders import (
    Found,
    PictureFiles,
    class_of,
    endings,
    find_pictures,
    is_by_product,
    is_masks,
    part_folders,
    problem_of,
    refuse_shared,
)
from convae.data.picture_tables import TABLES_OF_PICTURES, Row, read_table
from convae.data.reading import Dataset, read_dataset, skipped
from convae.data.shards import read_shards
from convae.data.splits import InMemory, of_pictures
from convae.data.synthetic import SYNTHETIC, synthetic
from convae.errors import UserError, counted, prefixed
from convae.files import printable

EXTRA_ARGUMENTS = {"EMNIST": {"split": "balanced"}}
"""Arguments that a dataset of torchvision needs beside those that select a half."""

UNREADABLE = (ValueError, EOFError, LookupError, AssertionError, struct.error, zlib.error)
"""What torchvision raises for files that are not what they should be."""

MOST_CLASSES = 20
"""Classes of which each is reported with its number of pictures."""

PHOTO_PATCH = 32
"""Side of the patches cut from the two photographs, in pixels."""


def named(name: str, root: str = "data") -> DatasetConfig:
    """Configure a dataset by its name alone, where its constructor follows the usual pattern."""
    if name.lower() in BUILT_IN:
        return DatasetConfig(name=name.lower())
    from torchvision import datasets

    by_name = {known.lower(): known for known in datasets.__all__}
    found = by_name.get(name.lower())
    if found is None or found == "ImageFolder":
        if Path(name).exists():
            raise UserError(f"{name!r} is a file or folder; expected the name of a dataset")
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


def read_parts(config: DatasetConfig) -> Dataset:
    """Read the parts that a dataset itself distinguishes."""
    if config.name == "photos":
        return Dataset(*_photos())
    if config.name == "digits":
        return Dataset(_digits(), classes=[str(digit) for digit in range(10)])
    if config.name in SYNTHETIC:
        return synthetic(config.name)
    if config.name == "arrays":
        return read_arrays(config)
    if config.name == "ImageFolder":
        return _image_folder(config)
    if config.name == "WebDataset":
        return read_shards(config)
    if config.test is not None and config.train == config.test:
        raise UserError(
            f"dataset.train, dataset.test: both select the same images, {config.train}; set "
            "what distinguishes them, as in +dataset.train.split=train +dataset.test.split=test, "
            "or dataset.test=null to set part of the training images aside"
        )
    opened = open_custom if is_custom(config.name) else _torchvision
    datasets = {"train": opened(config, config.train)}
    if config.test is not None:
        datasets["test"] = opened(config, config.test)
    return read_dataset(
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
            f"module.Class of your own, or a class of torchvision.datasets: {', '.join(known)}"
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


def _image_folder(config: DatasetConfig) -> Dataset:
    """Read a folder of pictures, with or without folders for training and test images inside."""
    root = Path(config.root)
    if root.is_file() and root.suffix.lower() in TABLES_OF_PICTURES:
        return _picture_table(root, config)
    if not root.is_dir():
        raise FileNotFoundError(f"dataset.root: there is no folder {config.root!r}")
    folders = part_folders(root)
    found = {part: _find(folder) for part, folder in folders.items()}
    refuse_shared({part: each.files for part, each in found.items()}, "picture")
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
    if folders["train"] != root:
        masks = (path for path in sorted(root.iterdir()) if path.is_dir() and is_masks(path))
        hint = "" if config.normal else "; dataset.normal=[good] makes use of them"
        notes += [f"{path.name}/ holds masks, and no images{hint}" for path in masks]
    known = [each for part in found.values() for each in part.unreadable]
    data = read_dataset(datasets, config, classes, notes, known)
    return replace(data, notes=[*data.notes, _account(list(found.values()), data, config)])


def _picture_table(file: Path, config: DatasetConfig) -> Dataset:
    """Read the pictures that a table names, in the parts that it tells."""
    with prefixed("dataset.root: "):
        rows = read_table(file)
    places: dict[str, Row] = {}
    for row in rows:
        real = os.path.realpath(row.path)
        if real in places:
            raise UserError(f"dataset.root: {str(file)!r} names {printable(str(row.path))!r} twice")
        places[real] = row
    broken = [(str(row.path), problem) for row in rows if (problem := problem_of(row.path))]
    left_out = {name for name, _ in broken}
    kept = [row for row in rows if str(row.path) not in left_out]
    if not any(row.part == "train" for row in kept):
        raise UserError(f"dataset.root: {str(file)!r} names no pictures to train on that exist")
    classes = sorted({row.label or "." for row in kept})
    parts = dict.fromkeys(row.part for row in sorted(kept, key=lambda row: row.part != "train"))
    datasets = {
        part: PictureFiles(
            [(str(r.path), classes.index(r.label or ".")) for r in kept if r.part == part]
        )
        for part in parts
    }
    shown = _shown(Counter(row.label for row in kept if row.label))
    notes = [f"{file}: {counted(len(rows), 'picture')}{f': {shown}' if shown else ''}"]
    data = read_dataset(datasets, config, classes, [*notes, *skipped(broken)], broken)
    found = Found([row.path for row in kept], seen=len(rows), unreadable_files=len(broken))
    return replace(data, notes=[*data.notes, _account([found], data, config)])


def _account(found: list[Found], data: Dataset, config: DatasetConfig) -> str:
    """Say what became of every file."""
    parts = (data.train, data.validation, data.test)
    read = sum(len(of_pictures(p, np.arange(len(p)))) for p in parts if p is not None)
    others = sum(each.others for each in found)
    files = sum(each.seen for each in found)
    kinds = {
        "read as pictures" if config.check else "taken for pictures": read,
        "that cannot be read": files - others - read,
    }
    kinds["left out as something else"] = others
    shown = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items() if count)
    return f"{counted(files, 'file')}: {shown}"


def _find(folder: Path) -> Found:
    """Find the pictures of a folder."""
    found = find_pictures(folder)
    if not found.files:
        left_out = found.describe_left_out()
        raise FileNotFoundError(
            f"dataset.root: no pictures under {str(folder)!r}, of the endings "
            f"{' '.join(sorted(endings()))}{f'; it holds {left_out}' if left_out else ''}"
        )
    return found


def _shown(counts: Counter[str]) -> str:
    """List classes with their numbers of pictures; of many the first ones."""
    shown = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())[:MOST_CLASSES])
    more = len(counts) - MOST_CLASSES
    return f"{shown} and {more} more" if more > 0 else shown


def _describe(folder: Path, found: Found, names: list[str]) -> list[str]:
    """Report how many pictures of which class a folder holds, and what was left out."""
    counts = Counter(names)
    kinds = "class" if len(counts) == 1 else "classes"
    classes = f" in {len(counts)} {kinds}: {_shown(counts)}"
    has_classes = set(counts) != {"."}
    files = counted(len(names), "picture file")
    notes = [f"{folder}: {files}{classes if has_classes else ''}"]
    empty = sorted(
        path.name
        for path in folder.iterdir()
        if path.is_dir() and path.name not in counts and not is_by_product(path.name)
    )
    if empty:
        notes.append(f"without pictures: {', '.join(empty)}")
    if left_out := found.describe_left_out():
        notes.append(f"left out: {left_out}")
    notes += skipped(found.unreadable)
    return notes
