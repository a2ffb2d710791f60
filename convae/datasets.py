"""Datasets by name: scikit-learn's bundled images, torchvision's datasets, and one's own pictures.

torch and torchvision are imported only where a dataset of theirs is asked for.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image
from tqdm import tqdm

from convae.configuration import DatasetConfig
from convae.splits import InMemory, Labels, Pixels, Split, Splits, Streamed, readable

BUILT_IN = ("digits", "photos")

FURTHER_ARGUMENTS = {"EMNIST": {"split": "balanced"}}
"""What a dataset of torchvision wants to be told beside which half."""

LOOKED_AT = 20
"""Images, evenly spread, of which none may be in colour for a dataset to be read in grey."""

LARGEST_SIDE = 4096
"""Pixels along the side of an image, at most."""

PHOTO_PATCH = 32
"""Side of the patches cut from the two photographs, in pixels."""


def load_dataset(config: DatasetConfig, seed: int = 0) -> Splits:
    """Read a dataset and divide it.

    Parameters
    ----------
    config : DatasetConfig
        Which one, and how.
    seed : int
        Seed of the division where the dataset has none of its own.

    Returns
    -------
    Splits
        Training, validation and test images.

    Raises
    ------
    ValueError
        If the name is unknown, images cannot be read, or there are too few of them.
    FileNotFoundError
        If the files are neither there nor to be downloaded.
    """
    _check(config)
    train, validation, test, classes = _parts(config)
    rng = np.random.default_rng([seed, 1])
    train, test = _divide(train, test, config.holdout, rng)
    train, validation = _divide(train, validation, config.holdout, rng)
    anomalous = None
    if config.normal is not None:
        normal = _numbers(config.normal, train, classes)
        train, validation = _only(train, normal), _only(validation, normal)
        if not len(train) or not len(validation):
            raise ValueError(
                f"dataset.normal: {config.normal} leaves {len(train)} training and "
                f"{len(validation)} validation images; add images, or raise dataset.holdout"
            )
    if config.limit is not None:
        train = _some(train, config.limit, rng)
    if config.evaluation_limit is not None:
        validation, test = (
            _some(part, config.evaluation_limit, rng) for part in (validation, test)
        )
    if config.normal is not None:
        assert test.labels is not None
        anomalous = ~np.isin(test.labels, normal)
        if anomalous.all() or not anomalous.any():
            raise ValueError(
                f"dataset.normal: with {config.normal}, the {len(test)} test images are all normal "
                "or all anomalous; name fewer or other classes, or raise dataset.evaluation_limit"
            )
    for name, part in (("validation", validation), ("test", test)):
        if part.shape != train.shape:
            raise ValueError(
                f"dataset: training images are {train.shape} (channels, rows, columns), {name} "
                f"images {part.shape}; set dataset.image_size and dataset.channels"
            )
    return Splits(config.name, train, validation, test, anomalous)


def _check(config: DatasetConfig) -> None:
    """Refuse values out of range, before any file is opened."""
    if not 0 < config.holdout < 0.5:
        raise ValueError(f"dataset.holdout: {config.holdout} is not between 0 and 0.5")
    if config.channels not in (None, 1, 3):
        raise ValueError(f"dataset.channels: {config.channels} is neither 1 (grey) nor 3 (colour)")
    if config.workers < 0:
        raise ValueError(f"dataset.workers: {config.workers} is too small; use 0 or more")
    for name, least, most in (
        ("image_size", 1, LARGEST_SIDE),
        ("limit", 2, inf),
        ("evaluation_limit", 1, inf),
    ):
        value = getattr(config, name)
        if value is not None and not least <= value <= most:
            raise ValueError(f"dataset.{name}: {value} is not between {least} and {most}")
    if config.name in BUILT_IN:
        for name in ("image_size", "channels"):
            if getattr(config, name) is not None:
                raise ValueError(
                    f"dataset.{name}: {config.name!r} comes as it is; leave this at null"
                )


def _some(split: Split, limit: int, rng: np.random.Generator) -> Split:
    """Take so many images at random, or all if there are no more."""
    return split if limit >= len(split) else split.select(rng.permutation(len(split))[:limit])


def _only(split: Split, classes: list[int]) -> Split:
    """Take the images of some classes."""
    assert split.labels is not None
    return split.select(np.flatnonzero(np.isin(split.labels, classes)))


def _numbers(normal: list[Any], split: Split, classes: list[str]) -> list[int]:
    """Look up the numbers of classes given by their names or numbers."""
    if split.labels is None:
        raise ValueError("dataset.normal: this dataset has no classes; leave it at null")
    known = {int(label): str(int(label)) for label in np.unique(split.labels)}
    known |= {n: name for n, name in enumerate(classes) if n in known}
    by_name = {name: number for number, name in known.items()}
    by_name |= {str(number): number for number in known}
    numbers = [by_name.get(str(which), -1) for which in normal]
    if not numbers or -1 in numbers:
        raise ValueError(
            f"dataset.normal: {normal} is not a list of classes among "
            f"{', '.join(f'{n} ({name})' if name != str(n) else name for n, name in known.items())}"
        )
    return numbers


Parts: TypeAlias = tuple[Split, "Split | None", "Split | None", list[str]]


def named(name: str, root: str = "data") -> DatasetConfig:
    """Describe a dataset by its name alone, as far as its constructor is like the others'.

    Parameters
    ----------
    name : str
        "digits", "photos", or a class of torchvision.datasets; capitals do not matter.
    root : str
        The folder in which torchvision looks for its files.

    Returns
    -------
    DatasetConfig
        How it is read.

    Raises
    ------
    ValueError
        If there is no such dataset.
    """
    if name.lower() in BUILT_IN:
        return DatasetConfig(name=name.lower())
    from torchvision import datasets

    by_name = {known.lower(): known for known in datasets.__all__}
    found = by_name.get(name.lower())
    if found is None or found == "ImageFolder":
        raise ValueError(f"{name!r} is neither a file, a folder, nor a dataset by name")
    parameters = inspect.signature(getattr(datasets, found)).parameters
    further = FURTHER_ARGUMENTS.get(found, {})
    if "train" in parameters or found == "EMNIST":
        halves: list[dict[str, Any]] = [{"train": True}, {"train": False}]
    elif "split" in parameters:
        halves = [{"split": "train"}, {"split": "test"}]
    elif "what" in parameters:  # QMNIST
        halves = [{"what": "train"}, {"what": "test"}]
    else:
        raise ValueError(f"{found} of torchvision has no test half that its name alone could give")
    train, test = (further | half for half in halves)
    transposed = found == "EMNIST"
    return DatasetConfig(name=found, root=root, train=train, test=test, transposed=transposed)


def _parts(config: DatasetConfig) -> Parts:
    """Read a dataset's own parts, training, validation, test, and the names of its classes."""
    if config.name == "photos":
        return *_photos(), []
    if config.name == "digits":
        return _digits(), None, None, [str(digit) for digit in range(10)]
    if config.name == "ImageFolder":
        return _image_folder(config)
    if config.test is not None and config.train == config.test:
        raise ValueError(
            f"dataset.train, dataset.test: both select the same images, {config.train}; say how "
            "the halves differ, as in +dataset.train.split=train +dataset.test.split=test, or set "
            "dataset.test=null to have a part of the training images set aside"
        )
    whole = _torchvision(config, config.train)
    test = None if config.test is None else _wrap(_torchvision(config, config.test), config)
    return _wrap(whole, config), None, test, list(getattr(whole, "classes", []))


def _divide(
    whole: Split, part: Split | None, fraction: float, rng: np.random.Generator
) -> tuple[Split, Split]:
    """Take a part from a split at random, unless it is there already."""
    if part is not None:
        return whole, part
    order = rng.permutation(len(whole))
    count = round(fraction * len(whole))
    if count == 0:
        raise ValueError(
            f"dataset: {len(whole)} images are too few to set {fraction:.0%} of them aside; "
            "add images, or raise dataset.holdout"
        )
    return whole.select(np.sort(order[count:])), whole.select(np.sort(order[:count]))


def _digits() -> InMemory:
    """Read the 1,797 handwritten digits of 8x8 pixels that scikit-learn brings (UCI, 1998)."""
    from sklearn.datasets import load_digits

    digits = load_digits()  # images (1797, 8, 8), 0 to 16
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    return InMemory(pixels, digits.target.astype(np.int64))


def _photos() -> tuple[InMemory, InMemory, InMemory]:
    """Cut scikit-learn's two photographs into patches; each split has a strip of its own."""
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
        raise ValueError(
            f"dataset.name: {config.name!r} is unknown; use {', '.join(BUILT_IN)}, "
            f"or a class of torchvision.datasets: {', '.join(known)}"
        )
    build = getattr(datasets, config.name)
    try:
        return build(config.root, **arguments)
    except TypeError as error:
        raise ValueError(
            f"dataset: {config.name} refuses its arguments {arguments} ({error}); "
            "set dataset.train and dataset.test to what its constructor takes"
        ) from None
    except (RuntimeError, OSError):  # torchvision's words for "no such files"
        pass
    try:
        return build(config.root, **arguments, download=True)
    except (RuntimeError, OSError, TypeError) as error:
        raise FileNotFoundError(
            f"dataset: {config.name} was not found under {config.root!r} and cannot be downloaded "
            f"({error}). Put its files there as torchvision keeps them, or say where they are with "
            "dataset.root=<folder> (convae: --root <folder>); dataset=digits needs no download"
        ) from None


def _image_folder(config: DatasetConfig) -> Parts:
    """Read a folder of pictures, with or without train/, val/ and test/ inside."""
    root = Path(config.root)
    if not root.is_dir():
        raise FileNotFoundError(f"dataset.root: there is no folder {config.root!r}")
    names = ["train", "val", "test"] if (root / "train").is_dir() else ["."]
    folders = [root / name for name in names if (root / name).is_dir()]
    others = sorted(p.name for p in root.iterdir() if p.is_dir() and p not in folders)
    if len(names) > 1 and others:
        raise ValueError(
            f"dataset.root: beside train/, {config.root!r} may hold val/ and test/, and nothing "
            f"else; it holds {', '.join(others)}. Move them away, or into these"
        )
    files = {folder: _files(folder) for folder in folders}
    classes = sorted({_class_of(path, folder) for folder in folders for path in files[folder]})
    parts: dict[str, Split] = {}
    for folder in folders:
        labels = [classes.index(_class_of(path, folder)) for path in files[folder]]
        samples = [(str(path), label) for path, label in zip(files[folder], labels, strict=True)]
        parts[folder.name if len(names) > 1 else "train"] = _wrap(Pictures(samples), config)
    return parts["train"], parts.get("val"), parts.get("test"), classes


@dataclass(frozen=True)
class Pictures:
    """The picture files of a folder, at any depth, in the order of their names.

    Parameters
    ----------
    samples : list of (str, int)
        Path and class of each, as torchvision's folder datasets have them.
    """

    samples: list[tuple[str, int]]

    def __len__(self) -> int:
        """Count the pictures."""
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
    paths = sorted(path for path in found if path.is_file())
    if not paths:
        raise FileNotFoundError(
            f"dataset.root: no pictures under {str(folder)!r} (files ending in "
            f"{', '.join(IMG_EXTENSIONS)})"
        )
    return paths


def _class_of(path: Path, folder: Path) -> str:
    """Name the folder right below the root in which a picture lies."""
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
        some = np.linspace(0, len(dataset) - 1, min(len(dataset), LOOKED_AT)).astype(int)
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
        raise ValueError(
            f"dataset.image_size: images differ in size, such as {sorted(shapes)[:2]}; "
            "set it, for example dataset.image_size=64"
        )
    return InMemory(np.concatenate(read), labels)


def _raw_pixels(dataset: Any) -> Pixels | None:
    """Take the whole array that MNIST's, CIFAR's and similar classes hold, as (N, C, H, W)."""
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
    """Take the classes of all images, where the dataset tells them without reading images."""
    if isinstance(dataset, Pictures):
        return np.array([label for _, label in dataset.samples], np.int64)
    for name in ("targets", "labels", "_labels"):  # as torchvision's classes call them
        labels = getattr(dataset, name, None)
        if labels is not None:
            found = np.asarray(labels)
            if found.shape == (len(dataset),) and np.issubdtype(found.dtype, np.integer):
                return found.astype(np.int64)
    return None
