"""Files and folders of arrays as a dataset: what is found, and what names and axes mean."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from tqdm import tqdm

from convae.configuration import DatasetConfig
from convae.data.array_files import ENDINGS, Stack, check_numbers, read_stacks, role
from convae.data.arrays import CHUNK_BYTES, Arrays, Statistics, count, place
from convae.data.folders import class_of, find_files, part_folders
from convae.data.layouts import MEANING, Layout, possible
from convae.data.reading import Dataset, broken_error
from convae.data.splits import Labels
from convae.errors import UserError, counted
from convae.files import printable

MOST_LISTED = 20
"""Examples that are listed by name, at most."""


Labelled: TypeAlias = list[tuple[Stack, list[Any] | None]]
"""Arrays, each with the classes of its examples, or of all of them, where these are known."""


def read_arrays(config: DatasetConfig) -> Dataset:
    """Read the arrays of a file or folder, unscaled, in the parts that their names distinguish."""
    root = Path(config.root)
    if root.is_dir():
        parts, notes = _folder(root, config)
    elif root.is_file():
        if root.suffix.lower() not in ENDINGS:
            raise UserError(
                f"dataset.root: {config.root!r} is no file of arrays; expected {', '.join(ENDINGS)}"
            )
        parts, notes = _by_role(_named(_read(root, config))), []
    else:
        raise FileNotFoundError(f"dataset.root: there is no file or folder {config.root!r}")
    if "train" not in parts:
        raise UserError(
            f"dataset.root: {config.root!r} has {' and '.join(parts)} arrays, and none to train on"
        )
    if _labels_are_a_file(config):
        parts["train"] = _labelled(parts["train"], Path(config.labels))
    return dataset_of(parts, config.layout, config.strict, notes)


def dataset_of(
    parts: dict[str, Labelled],
    given_layout: str | None = None,
    strict: bool = False,
    notes: Sequence[str] = (),
) -> Dataset:
    """Make a dataset of arrays, unscaled, from its parts; what cannot be used is left out."""
    stacks = [stack for part in parts.values() for stack, _ in part]
    for stack in stacks:
        check_numbers(stack)
    layout = _layout(stacks, given_layout)
    shapes = {layout.shape_of(stack.shape): stack for stack in stacks}
    if len(shapes) > 1:
        (one, first), (other, second), *_ = shapes.items()
        raise UserError(
            f"dataset: examples differ in shape (channels, *positions): {one} in "
            f"{printable(first.name)!r}, {other} in {printable(second.name)!r}; bring them to one"
        )
    tables = {stack.columns for stack in stacks}
    if len(tables) > 1:
        columns, others = sorted(tables)[:2]
        differing = sorted(set(columns) ^ set(others)) or ["their order"]
        raise UserError(f"dataset: tables differ in their columns: {', '.join(differing[:8])}")
    names = {label for part in parts.values() for _, of in part for label in of or ()}
    classes = sorted(names, key=lambda name: (isinstance(name, str), name))
    splits: dict[str, Any] = {}
    broken: list[tuple[str, str]] = []
    for part, found in parts.items():
        splits[part], bad = _split(found, layout, classes)
        broken += bad
    if broken and strict:
        raise broken_error(broken, "example", "used")
    return Dataset(
        **splits,
        classes=[str(name) for name in classes],
        notes=[*notes, *_describe(stacks, layout), *_listed(broken)],
    )


def _named(stacks: Sequence[Stack]) -> list[tuple[str, Stack]]:
    return [(stack.key or stack.path.stem, stack) for stack in stacks]


def _by_role(named: Sequence[tuple[str, Stack]]) -> dict[str, Labelled]:
    """Divide arrays by their names: into parts, and into examples and classes."""
    if len(named) == 1:
        ((_, only),) = named
        return {"train": [(only, _classes_beside(only))]}
    examples: dict[str, Stack] = {}
    classes: dict[str, Stack] = {}
    for name, stack in named:
        part, are_classes = role(name)
        found = classes if are_classes else examples
        if (part or "train") in found:
            one, other = found[part or "train"], stack
            raise UserError(
                f"dataset.root: both {printable(one.name)!r} and {printable(other.name)!r} could "
                "hold the examples; expected names such as x and y, or x_train, y_train, x_val, "
                "x_test"
            )
        found[part or "train"] = stack
    if orphans := classes.keys() - examples.keys():
        raise UserError(f"dataset.root: there are classes of {' and '.join(orphans)}, no examples")
    return {
        part: [
            (stack, _classes(classes[part], stack) if part in classes else _classes_beside(stack))
        ]
        for part, stack in examples.items()
    }


def _classes_beside(stack: Stack) -> list[Any] | None:
    return None if stack.labels is None else stack.labels.tolist()


def _classes(stack: Stack, examples: Stack) -> list[Any]:
    """Read the classes of examples from an array."""
    values = np.asarray(stack.open())
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or values.dtype.kind not in "biuUS" or len(values) != examples.shape[0]:
        raise UserError(
            f"{printable(stack.name)!r} is {values.dtype} {values.shape}; expected the classes of "
            f"{examples.shape[0]:,} examples, whole numbers or names"
        )
    return list(values.astype(np.str_).tolist() if values.dtype.kind == "S" else values.tolist())


def _labelled(part: Labelled, path: Path) -> Labelled:
    """Give the only array the classes of a file."""
    if len(part) > 1:
        raise UserError(
            "dataset.labels: a file of classes is for one array, and there are several; "
            "put the examples of a class into a folder of its name"
        )
    if not path.is_file():
        raise FileNotFoundError(f"dataset.labels: there is no file {str(path)!r}")
    ((stack, _),) = part
    (classes,) = read_stacks(path)
    return [(stack, _classes(classes, stack))]


def _folder(root: Path, config: DatasetConfig) -> tuple[dict[str, Labelled], list[str]]:
    """Read the arrays of a folder, with or without folders for parts and classes inside."""
    folders = part_folders(root, ENDINGS)
    parts: dict[str, Labelled] = {}
    notes = []
    for part, folder in folders.items():
        found = find_files(folder, ENDINGS)
        if found.unreadable:
            name, why = found.unreadable[0]
            raise UserError(f"dataset.root: {printable(name)!r} cannot be read ({why})")
        if not found.files:
            raise FileNotFoundError(
                f"dataset.root: no arrays under {str(folder)!r}, of the endings {' '.join(ENDINGS)}"
            )
        if left_out := found.describe_left_out():
            notes.append(f"left out of {folder}: {left_out}")
        stacks = [stack for path in found.files for stack in _read(path, config)]
        named = _named(stacks)
        is_flat = all(class_of(stack.path, folder) == "." for stack in stacks)
        if is_flat and any(role(name) != (None, False) for name, _ in named):
            by_role = _by_role(named)
            if len(folders) == 1:
                return by_role, notes
            if len(by_role) > 1:
                raise UserError(
                    f"dataset.root: {str(folder)!r} has arrays of {' and '.join(by_role)}; move "
                    "each into the folder of its part"
                )
            (parts[part],) = by_role.values()
        else:
            parts[part] = [(stack, _classes_of_folder(stack, folder, is_flat)) for stack in stacks]
    return parts, notes


def _read(path: Path, config: DatasetConfig) -> list[Stack]:
    """Read the arrays of a file, as the configuration says."""
    labels = None if _labels_are_a_file(config) else config.labels
    return read_stacks(path, labels, config.columns)


def _labels_are_a_file(config: DatasetConfig) -> bool:
    labels = config.labels
    return isinstance(labels, str) and Path(labels).suffix.lower() in ENDINGS


def _classes_of_folder(stack: Stack, folder: Path, is_flat: bool) -> list[Any] | None:
    """Take the name of the subfolder for the class, unless there are none."""
    return _classes_beside(stack) if is_flat else [class_of(stack.path, folder)]


def _layout(stacks: Sequence[Stack], given: str | None) -> Layout:
    """Take the order of axes that was given, or the only one that there can be."""
    axes = {len(stack.shape): stack for stack in stacks}
    first = stacks[0]
    if len(axes) > 1:
        one, other = list(axes.values())[:2]
        raise UserError(
            f"dataset: arrays differ in the number of their axes: {printable(one.name)!r} is "
            f"{one.shape}, {printable(other.name)!r} {other.shape}"
        )
    letters = given.upper() if given is not None else first.layout
    if letters is None:
        letters = {1: "L", 2: "NL" if len(stacks) == 1 or first.columns else None}.get(
            len(first.shape)
        )
    if letters is None:
        choices = ", ".join(possible(len(first.shape), len(stacks) == 1))
        raise UserError(
            f"dataset.layout: {printable(first.name)!r} is {first.shape}, and its axes could be "
            f"{choices or 'of no known order'} ({MEANING}); say which, as in "
            f"dataset.layout={(choices or 'NCHW').split(',')[0]}"
        )
    try:
        layout = Layout(letters)
    except UserError as error:
        raise UserError(f"dataset.{error}") from None
    if layout.axes != len(first.shape):
        choices = ", ".join(possible(len(first.shape), len(stacks) == 1))
        raise UserError(
            f"dataset.layout: {letters} has {layout.axes} axes, and {printable(first.name)!r} is "
            f"{first.shape}; expected {choices or 'arrays of 1 to 5 axes'}"
        )
    return layout


def _split(
    found: Labelled, layout: Layout, classes: Sequence[Any]
) -> tuple[Arrays, list[tuple[str, str]]]:
    """Look at all examples once: those with values that are not finite are left out."""
    stacks = [stack for stack, _ in found]
    counts = [count(stack, layout) for stack in stacks]
    labels = _numbers(found, counts, classes)
    measured, intact, broken, start = [], [], [], 0
    with tqdm(
        total=sum(counts), desc="looking at arrays", unit=" examples", disable=None, leave=False
    ) as bar:
        for stack, number in zip(stacks, counts, strict=True):
            size = max(1, CHUNK_BYTES // (8 * prod(layout.shape_of(stack.shape))))
            values = layout.examples(stack.open())
            for first in range(0, number, size):
                examples = np.asarray(values[first : first + size])
                finite = np.isfinite(examples).reshape(len(examples), -1).all(axis=1)
                measured.append(Statistics.measured(examples[finite]))
                intact.append(start + first + np.flatnonzero(finite))
                broken += [
                    (place(stack, first + int(n), layout), "values that are not finite")
                    for n in np.flatnonzero(~finite)
                ]
                bar.update(len(examples))
            start += number
    indices = np.concatenate(intact)
    labels = None if labels is None else labels[indices]
    return Arrays(stacks, layout, indices, None, labels, Statistics.joined(measured)), broken


def _numbers(found: Labelled, counts: Sequence[int], classes: Sequence[Any]) -> Labels | None:
    """Return the numbers of all examples' classes; None unless all have one."""
    numbers: list[int] = []
    known = {name: number for number, name in enumerate(classes)}
    for (stack, labels), number in zip(found, counts, strict=True):
        if labels is None:
            return None
        if len(labels) not in (1, number):
            raise UserError(
                f"dataset: {printable(stack.name)!r} has {number:,} examples and {len(labels):,} "
                "classes"
            )
        each = [known[label] for label in labels]
        numbers += each * number if len(each) == 1 else each
    return np.array(numbers, np.int64)


def _describe(stacks: Sequence[Stack], layout: Layout) -> list[str]:
    """Say what was found, and how it is understood."""
    first = stacks[0]
    files = {stack.path for stack in stacks}
    size = sum(prod(stack.shape) * stack.dtype.itemsize for stack in stacks)
    channels, *positions = layout.shape_of(first.shape)
    sizes = "x".join(map(str, positions))
    lines = [
        f"{counted(sum(count(stack, layout) for stack in stacks), 'example')} in "
        f"{counted(len(files), 'file')} of {size / 1e6:,.1f} MB, {first.dtype}: layout "
        f"{layout.letters}, {counted(channels, 'channel')} of {sizes} values"
    ]
    return [*lines, *dict.fromkeys(note for stack in stacks for note in stack.notes)]


def _listed(broken: Sequence[tuple[str, str]]) -> list[str]:
    """Report examples that were left out; of many the first ones."""
    more = len(broken) - MOST_LISTED
    lines = [f"skipped, for {why}: {name}" for name, why in broken[:MOST_LISTED]]
    return [*lines, *([f"skipped like these: {more:,} more"] if more > 0 else [])]
