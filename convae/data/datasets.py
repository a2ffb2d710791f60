"""Load a dataset by name and divide it into training, validation and test images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from convae.configuration import DatasetConfig
from convae.data.arrays import Arrays, scale
from convae.data.folders import part_folders
from convae.data.masks import check_masks, find_masks
from convae.data.pictures import Preprocessing
from convae.data.scaling import Scaling
from convae.data.sources import read_parts
from convae.data.splits import Order, Split, Splits, groups_of, of_pictures
from convae.errors import UserError, counted, prefixed
from convae.files import printable

MOST_REASONS = 3
"""Notes that an error repeats, at most."""


def load_dataset(config: DatasetConfig, seed: int = 0) -> Splits:
    """Read a dataset and divide it; the seed decides the division where it has none of its own.

    Raises `UserError` where the configuration or an image is at fault, and `FileNotFoundError` if
    files are neither there nor can be downloaded.
    """
    parts = read_parts(config)
    train, validation, test = parts.train, parts.validation, parts.test
    for name, part in (("training", train), ("validation", validation), ("test", test)):
        if part is not None and not len(part):
            raise UserError(
                f"dataset: none of the {name} examples can be read{_reasons(parts.notes)}"
            )
    rng = np.random.default_rng([seed, 1])
    normal: list[int] | None = None
    cut: list[str] = []
    if config.normal is not None:
        # a folder called 03, or the class 3 of an array, is not class number 3
        by_position = config.name not in ("ImageFolder", "arrays")
        normal = _class_numbers(config.normal, train, parts.classes, by_position)
    try:
        train, test = _divide(train, test, config.holdout, "testing", rng, cut, normal)
        train, validation = _divide(train, validation, config.holdout, "validation", rng, cut)
    except UserError as error:
        raise UserError(f"{error}{_reasons(parts.notes)}") from None
    if normal is not None:
        both = len(train), len(validation)
        train, validation = _of_classes(train, normal), _of_classes(validation, normal)
        left = both[0] - len(train), both[1] - len(validation)
        if any(left):
            cut.append(
                "left out, as they are not normal: "
                f"{left[0]:,} training and {left[1]:,} validation examples"
            )
        if not len(train) or not len(validation):
            raise UserError(
                f"dataset.normal: {config.normal} leaves {len(train)} training and "
                f"{len(validation)} validation images; add images of these classes"
                f"{' or raise dataset.holdout' if parts.validation is None else ''}"
            )
    if config.limit is not None:
        train = _sample(train, config.limit, rng)
    if config.evaluation_limit is not None:
        validation = _sample(validation, config.evaluation_limit, rng)
        test = _sample(test, config.evaluation_limit, rng)
    for name, part in (("validation", validation), ("test", test)):
        if part.shape != train.shape:
            raise UserError(
                f"dataset: training images are {train.shape} (channels, rows, columns), {name} "
                f"images {part.shape}; set dataset.image_size and dataset.channels"
            )
    anomalous = None if normal is None else _anomalous(test, normal, config)
    classes = tuple(parts.classes)
    notes = [*parts.notes, *cut]
    how: Preprocessing | Scaling
    name_of = test.without_values().name if isinstance(test, Arrays) else None
    if isinstance(train, Arrays):
        arrays = [part for part in (train, validation, test) if isinstance(part, Arrays)]
        how, splits, more = scale(arrays, config.scaling, config.memory_mb)
        train, validation, test = splits
        notes += more
    else:
        channels, *size = train.shape
        with prefixed("dataset."):
            size_of_all = parts.how.size if config.tile is not None else tuple(size)
            how = replace(
                parts.how, channels=channels, size=size_of_all, background=config.background
            )
    if normal is not None:
        names = (classes[n] if n < len(classes) else str(n) for n in normal)
        notes.append(f"normal, and trained on: {', '.join(names)}")
    if anomalous is not None and not anomalous.any():
        anomalous = None
        notes.append(
            "the test images are all normal: the threshold is that of the validation images, and "
            "AUROC would need others"
        )
    masks = None
    if anomalous is not None and config.name == "ImageFolder":
        masks = _masks(config, test, anomalous)
        if masks is not None:
            found = sum(mask is not None for mask in masks)
            notes.append(f"masks mark what is anomalous in {counted(found, 'test image')}")
    notes = [printable(note) for note in notes]
    return Splits(
        config.name, train, validation, test, anomalous, classes, how, masks, tuple(notes), name_of
    )


def _reasons(notes: Sequence[str]) -> str:
    """Repeat the first notes on what was skipped."""
    skipped = [printable(note) for note in notes if note.startswith("skipped")]
    return "".join(f"\n  {note}" for note in skipped[:MOST_REASONS])


def _masks(
    config: DatasetConfig, test: Split, anomalous: np.ndarray[Any, Any]
) -> list[Path | None] | None:
    """Find the masks of the test images of a folder, if it has a folder of them, too."""
    root = Path(config.root)
    folder = part_folders(root).get("test") if root.is_dir() else None
    if folder is None or test.files is None:
        return None
    files = of_pictures(test, test.files).tolist()
    masks = find_masks(root, folder, files, (~anomalous).tolist())
    if masks is not None:
        check_masks(files, masks)
    return masks


def _divide(
    whole: Split,
    part: Split | None,
    fraction: float,
    purpose: str,
    rng: np.random.Generator,
    notes: list[str],
    normal: list[int] | None = None,
) -> tuple[Split, Split]:
    """Set a random part of a split aside, unless the part exists already; no picture is divided.

    If some classes are `normal`, it is a part of these, and all others.
    Few long recordings, of which none can be spared, are divided by time; a note says so.
    """
    if part is not None:
        return whole, part
    is_cut = isinstance(whole, Arrays) and whole.recordings is not None  # recordings stay whole
    if normal is not None and whole.labels is not None and not is_cut:
        is_normal = np.isin(whole.labels, normal)
        places, others = np.flatnonzero(is_normal), np.flatnonzero(~is_normal)
        kept, aside = _division(whole.select(places), fraction, purpose, rng, notes)
        aside = np.sort(np.concatenate([places[aside], others]))
        return whole.select(places[kept]), whole.select(aside)
    kept, aside = _division(whole, fraction, purpose, rng, notes)
    return whole.select(kept), whole.select(aside)


def _division(
    whole: Split, fraction: float, purpose: str, rng: np.random.Generator, notes: list[str]
) -> tuple[Order, Order]:
    """Choose the positions that stay, and those that are set aside."""
    groups = whole.recordings if isinstance(whole, Arrays) else groups_of(whole)
    pictures = np.arange(len(whole)) if groups is None else np.unique(groups)
    order = rng.permutation(pictures)
    count = round(fraction * len(pictures))
    if count == 0 and isinstance(whole, Arrays) and groups is not None:
        before, end = whole.ends(fraction)
        if len(before) and len(end):
            across = len(whole) - len(before) - len(end)
            notes.append(
                f"the last {fraction:.0%} of {counted(len(pictures), 'recording')} are for "
                f"{purpose}; windows that reach across are left out: {across:,}"
            )
            return before, end
    if count == 0:
        raise UserError(
            f"dataset.holdout: {fraction:g} of {len(pictures):,} images leaves none for {purpose}; "
            "raise it, or add images"
        )
    if groups is None:
        return np.sort(order[count:]), np.sort(order[:count])
    is_aside = np.isin(groups, order[:count])
    return np.flatnonzero(~is_aside), np.flatnonzero(is_aside)


def _sample(split: Split, limit: int, rng: np.random.Generator) -> Split:
    """Draw so many images at random, or all if there are fewer; tiles stay in their order."""
    if limit >= len(split):
        return split
    drawn = rng.permutation(len(split))[:limit]
    return split.select(drawn if groups_of(split) is None else np.sort(drawn))


def _of_classes(split: Split, classes: list[int]) -> Split:
    """Select the images of some classes."""
    if split.labels is None:
        raise UserError("dataset.normal: the validation images have no classes")
    return split.select(np.flatnonzero(np.isin(split.labels, classes)))


def _class_numbers(
    normal: list[Any], split: Split, classes: Sequence[str], by_position: bool
) -> list[int]:
    """Look up the numbers of classes given by their names, or by their numbers if these count."""
    if split.labels is None:
        raise UserError("dataset.normal: this dataset has no classes; leave it at null")
    known = {int(label): str(int(label)) for label in np.unique(split.labels)}
    known |= {n: name for n, name in enumerate(classes) if n in known}
    by_name = {str(number): number for number in known} if by_position else {}
    by_name |= {name: number for number, name in known.items()}  # names win over positions
    numbers = [by_name.get(str(which), -1) for which in normal]
    shown = {n for n, name in known.items() if by_position and name != str(n)}
    if set(known.values()) == {"."} and -1 in numbers:
        raise UserError(
            f"dataset.normal: {normal}, and there are no folders of classes; put pictures into "
            "some, or leave dataset.normal at null if all are normal"
        )
    if not numbers or -1 in numbers:
        met = {*map(str, normal)} & {*classes} - {*known.values()}
        hint = ", since every window meets a rarer one; take a smaller dataset.tile" if met else ""
        raise UserError(
            f"dataset.normal: {normal} is not a list of classes among "
            f"{', '.join(f'{n} ({name})' if n in shown else name for n, name in known.items())}"
            f"{hint}"
        )
    return numbers


def _anomalous(test: Split, normal: list[int], config: DatasetConfig) -> np.ndarray[Any, Any]:
    """Mark the test images of other than the normal classes."""
    if test.labels is None:
        raise UserError("dataset.normal: the test images have no classes")
    anomalous = ~np.isin(of_pictures(test, test.labels), normal)
    if anomalous.all():
        raise UserError(
            f"dataset.normal: with {config.normal}, the {len(test)} test images are all anomalous; "
            "name more or other classes, or raise dataset.evaluation_limit"
        )
    return anomalous
