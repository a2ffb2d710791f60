"""Where images come from: scikit-learn's bundled ones, torchvision's datasets, folders of pictures.

torch and torchvision are imported only where they are used.
"""

from __future__ import annotations

import inspect
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image
from tqdm import tqdm

from convae.configuration import BUILT_IN, DatasetConfig
from convae.data.splits import InMemory, Labels, Pixels, Split, Streamed, readable
from convae.errors import UserError

EXTRA_ARGUMENTS = {"EMNIST": {"split": "balanced"}}
"""Arguments that a dataset of torchvision needs beside those that select a half."""

BY_PRODUCTS = ("__MACOSX", "@eaDir")
"""Folders with copies that macOS and network storage make."""

UNREADABLE = (ValueError, EOFError, LookupError, AssertionError, struct.error, zlib.error)
"""What torchvision raises for files that are not what they should be."""

SAMPLED = 20
"""Images, evenly spaced, that decide whether a dataset without `channels` is grey."""

PHOTO_PATCH = 32
"""Side of the patches cut from the two photographs, in pixels."""

Parts: TypeAlias = tuple[Split, "Split | None", "Split | None", list[str]]
"""Training, validation and test images, as far as a dataset has them, and names of its classes."""


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
        halves: list[dict[str, Any]] = [{"train": True}, {"train": False}]
    elif "split" in parameters:
        halves = [{"split": "train"}, {"split": "test"}]
    elif "what" in parameters:  # QMNIST
        halves = [{"what": "train"}, {"what": "test"}]
    else:
        raise UserError(f"{found} of torchvision has no test images that its name alone selects")
    train, test = (extra | half for half in halves)
    transposed = found == "EMNIST"
    return DatasetConfig(name=found, root=root, train=train, test=test, transposed=transposed)


def read_parts(config: DatasetConfig) -> Parts:
    """Read the parts that a dataset itself distinguishes."""
    if config.name == "photos":
        return *_photos(), []
    if config.name == "digits":
        return _digits(), None, None, [str(digit) for digit in range(10)]
    if config.name == "ImageFolder":
        return _image_folder(config)
    if config.test is not None and config.train == config.test:
        raise UserError(
            f"dataset.train, dataset.test: both select the same images, {config.train}; set "
            "what distinguishes them, as in +dataset.train.split=train +dataset.test.split=test, "
            "or dataset.test=null to set part of the training images aside"
        )
    whole = _torchvision(config, config.train)
    test = None if config.test is None else _wrap(_torchvision(config, config.test), config)
    return _wrap(whole, config), None, test, list(getattr(whole, "classes", []))


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
    """Read a folder of pictures, with or without train/, val/ and test/ inside."""
    root = Path(config.root)
    if not root.is_dir():
        raise FileNotFoundError(f"dataset.root: there is no folder {config.root!r}")
    names = ["train", "val", "test"] if (root / "train").is_dir() else ["."]
    folders = [root / name for name in names if (root / name).is_dir()]
    others = sorted(
        path.name
        for path in root.iterdir()
        if path.is_dir() and path not in folders and not is_by_product(path, root)
    )
    if len(names) > 1 and others:
        raise UserError(
            f"dataset.root: beside train/, {config.root!r} may hold val/ and test/, and nothing "
            f"else; it holds {', '.join(others)}. Move them elsewhere, or into these"
        )
    files = {folder: _files(folder) for folder in folders}
    classes = sorted({_class_of(path, folder) for folder in folders for path in files[folder]})
    parts: dict[str, Split] = {}
    for folder in folders:
        labels = [classes.index(_class_of(path, folder)) for path in files[folder]]
        samples = [(str(path), label) for path, label in zip(files[folder], labels, strict=True)]
        parts[folder.name if len(names) > 1 else "train"] = _wrap(PictureFiles(samples), config)
    return parts["train"], parts.get("val"), parts.get("test"), classes


@dataclass(frozen=True)
class PictureFiles:
    """The picture files of a folder, at any depth, in the order of their names.

    Parameters
    ----------
    samples : list of (str, int)
        Path and class of each, as torchvision's folder datasets have them.
    """

    samples: list[tuple[str, int]]

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Read one picture."""
        path, label = self.samples[index]
        with Image.open(path) as image:
            image.load()
        return image, label


def _files(folder: Path) -> list[Path]:
    from torchvision.datasets.folder import IMG_EXTENSIONS

    found = (path for path in folder.rglob("*") if path.suffix.lower() in IMG_EXTENSIONS)
    paths = sorted(path for path in found if path.is_file() and not is_by_product(path, folder))
    if not paths:
        raise FileNotFoundError(
            f"dataset.root: no pictures under {str(folder)!r} (files ending in "
            f"{', '.join(IMG_EXTENSIONS)})"
        )
    return paths


def is_by_product(path: Path, root: Path) -> bool:
    """Tell whether a path below a root is hidden, or what a system or a tool left beside pictures.

    Such as ``.ipynb_checkpoints``, ``._picture.png``, ``__MACOSX`` and ``@eaDir``.
    """
    return any(part.startswith(".") or part in BY_PRODUCTS for part in path.relative_to(root).parts)


def _class_of(path: Path, folder: Path) -> str:
    """Name the subfolder of the root that contains a picture."""
    first, *rest = path.relative_to(folder).parts
    return first if rest else "."


def _wrap(dataset: Any, config: DatasetConfig) -> Split:
    """Keep a torchvision dataset in memory if it fits, or stream it."""
    pixels, labels = _raw_pixels(dataset), _labels(dataset)
    asked = (config.image_size, config.channels)
    if pixels is not None and asked in ((None, None), (None, pixels.shape[1])):
        return InMemory(pixels.swapaxes(2, 3) if config.transposed else pixels, labels)
    everything = np.arange(len(dataset))
    first = Streamed(
        dataset, everything, 3, config.image_size, config.transposed, config.workers, labels
    )
    channels = config.channels
    if channels is None:
        some = np.linspace(0, len(dataset) - 1, min(len(dataset), SAMPLED)).astype(int)
        for index in some:
            readable(first[int(index)])
        modes = {dataset[int(index)][0].mode for index in some}
        is_grey = all(mode in ("1", "L") or mode.startswith("I") for mode in modes)
        channels = 1 if is_grey else 3
    stream = replace(first, channels=channels)
    size = len(stream) * int(np.prod(stream.shape))
    if size > config.memory_mb * 2**20:
        return stream
    with tqdm(total=len(stream), desc="reading images", unit=" images", disable=None) as bar:
        read = []
        for batch in stream.batches(256):
            read.append(batch)
            bar.update(len(batch))
    shapes = {batch.shape[1:] for batch in read}
    if len(shapes) > 1:
        raise UserError(
            f"dataset.image_size: images differ in size, such as {sorted(shapes)[:2]}; "
            "set it, for example dataset.image_size=64"
        )
    return InMemory(np.concatenate(read), labels)


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
