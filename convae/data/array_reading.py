"""Files and folders of arrays as a dataset: what is found, and what names and axes mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from tqdm import tqdm

from convae.configuration import DatasetConfig
from convae.data.array_files import (
    ENDINGS,
    TABLES,
    Stack,
    check_numbers,
    read_classes,
    read_stacks,
    role,
)
from convae.data.arrays import Arrays, Statistics, count, pieces
from convae.data.folders import class_of, find_files, part_folders, refuse_shared
from convae.data.layouts import MEANING, Layout, Values, possible
from convae.data.reading import Dataset, broken_error
from convae.data.splits import Labels
from convae.data.tiling import Tiling
from convae.errors import UserError, counted, prefixed
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
    return dataset_of(parts, config.layout, config.strict, notes, config.tile, config.overlap)


def dataset_of(
    parts: dict[str, Labelled],
    given_layout: str | None = None,
    strict: bool = False,
    notes: Sequence[str] = (),
    tile: Any = None,
    overlap: int = 0,
) -> Dataset:
    """Make a dataset of arrays, unscaled, from its parts; what cannot be used is left out.

    With a `tile`, examples of any size are cut into windows.
    """
    stacks = [stack for part in parts.values() for stack, _ in part]
    for stack in stacks:
        check_numbers(stack)
    are_many = len(stacks) == len(parts) and tile is None  # an array holds a part's examples
    layout, tiling = _layout(stacks, given_layout, are_many, tile is not None), None
    if tile is not None:
        with prefixed("dataset."):
            tiling = Tiling.along(layout.positions, tile, overlap)
    shapes = {layout.shape_of(stack.shape): stack for stack in stacks}
    kinds = {shape[0] if tiling else shape: shape for shape in shapes}
    if len(kinds) > 1:
        one, other, *_ = kinds.values()
        first, second = shapes[one], shapes[other]
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
    common = Counter(label for part in parts.values() for _, of in part for label in of or ())
    for part, found in parts.items():
        splits[part], bad = _split(found, layout, tiling, classes, common)
        broken += bad
    if broken and strict:
        raise broken_error(broken, "example", "used")
    return Dataset(
        **splits,
        classes=[str(name) for name in classes],
        notes=[*notes, *_describe(stacks, layout, tiling, splits), *_listed(broken)],
    )


def _named(stacks: Sequence[Stack]) -> list[tuple[str, Stack]]:
    return [(stack.key or stack.path.stem, stack) for stack in stacks]


def _by_role(named: Sequence[tuple[str, Stack]]) -> dict[str, Labelled]:
    """Divide arrays by their names: into parts, and into examples and classes."""
    if len(named) == 1:
        ((name, only),) = named
        if only.key and role(name) not in ((None, False), ("train", False)):
            raise UserError(
                f"dataset.root: {printable(only.name)!r} is the only array; expected examples to "
                "train on, such as x or x_train"
            )
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
    values = stack.open() if stack.labels is None else stack.labels
    return _plain_classes(np.asarray(values), stack.name, examples)


def _plain_classes(values: Values, name: str, examples: Stack) -> list[Any]:
    """List classes, whole numbers or names, one for each example."""
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.dtype.kind == "f" and (np.abs(values) < 2**53).all():
        whole = values.astype(np.int64)
        values = whole if (whole == values).all() else values
    count, *others = examples.shape
    fits = len(values) == count or (len(values) > count and len(values) in others)  # or of times
    if values.ndim != 1 or values.dtype.kind not in "biuUS" or not fits:
        raise UserError(
            f"{printable(name)!r} is {values.dtype} {values.shape}; expected the classes of "
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
    return [(stack, _plain_classes(read_classes(path), str(path), stack))]


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
    files = {part: [stack.path for stack, _ in found] for part, found in parts.items()}
    refuse_shared(files, "file")
    return parts, notes


def _read(path: Path, config: DatasetConfig) -> list[Stack]:
    """Read the arrays of a file, as the configuration says."""
    labels = None if _labels_are_a_file(config) else config.labels
    if path.suffix.lower() in TABLES:
        if role(path.stem)[1] and path != Path(config.root):  # named like classes
            return [Stack.of(path, read_classes(path))]
        return read_stacks(path, labels, config.columns)
    for name, value in (("labels", labels), ("columns", config.columns)):
        if value is not None:
            raise UserError(
                f"dataset.{name}: {value!r} names columns of tables ({', '.join(TABLES)}), and "
                f"{printable(str(path))!r} is none"
            )
    return read_stacks(path)


def _labels_are_a_file(config: DatasetConfig) -> bool:
    labels = config.labels
    return isinstance(labels, str) and Path(labels).suffix.lower() in ENDINGS


def _classes_of_folder(stack: Stack, folder: Path, is_flat: bool) -> list[Any] | None:
    """Take a column of classes, or else the name of the subfolder, unless there are none."""
    if is_flat or stack.labels is not None:
        return _classes_beside(stack)
    return [class_of(stack.path, folder)]


def _layout(stacks: Sequence[Stack], given: str | None, are_many: bool, are_cut: bool) -> Layout:
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
        are_rows = are_many or (first.columns and not are_cut)
        letters = {1: "L", 2: "NL" if are_rows else None}.get(len(first.shape))
    if letters is None:
        choices = ", ".join(possible(len(first.shape), are_many))
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
        choices = ", ".join(possible(len(first.shape), are_many))
        raise UserError(
            f"dataset.layout: {letters} has {layout.axes} axes, and {printable(first.name)!r} is "
            f"{first.shape}; expected {choices or 'arrays of 1 to 5 axes'}"
        )
    return layout


def _split(
    found: Labelled,
    layout: Layout,
    tiling: Tiling | None,
    classes: Sequence[Any],
    common: Mapping[Any, int],
) -> tuple[Arrays, list[tuple[str, str]]]:
    """Look at all examples once: those with values that are not finite are left out."""
    stacks = [stack for stack, _ in found]
    counts = [count(stack, layout) for stack in stacks]
    parts: list[tuple[Values, Any, Labels, Statistics]] = []
    broken: list[tuple[str, str]] = []
    start = 0
    with tqdm(
        total=sum(counts), desc="looking at arrays", unit=" examples", disable=None, leave=False
    ) as bar:
        for (stack, labels), number in zip(found, counts, strict=True):
            classes_of = _classifier(stack, labels, number, layout, tiling, classes, common)
            too_small = _too_small(stack, layout, tiling)
            if too_small:
                broken.append((stack.name, too_small))
            for piece in () if too_small else pieces(stack, layout, tiling):
                finite = np.isfinite(piece.examples).reshape(len(piece.numbers), -1).all(axis=1)
                bad = piece.names(stack, layout, np.flatnonzero(~finite))
                broken += [(name, "values that are not finite") for name in bad]
                numbers = piece.numbers[finite]
                places = None if piece.places is None else piece.places[finite]
                measured = Statistics.measured(piece.examples[finite])
                parts.append((start + numbers, places, classes_of(numbers, places), measured))
                bar.update(int(piece.numbers[-1]) + 1 + start - bar.n)
            start += number
    if not parts:
        name, why = broken[0]
        raise UserError(f"dataset.tile: nothing can be cut: {printable(name)!r}: {why}")
    has_labels = all(labels is not None for _, labels in found)
    split = Arrays(
        stacks,
        layout,
        np.concatenate([indices for indices, *_ in parts]),
        None,
        np.concatenate([labels for _, _, labels, _ in parts]) if has_labels else None,
        Statistics.joined([measured for *_, measured in parts]),
        tiling,
        None if tiling is None else np.concatenate([places for _, places, *_ in parts]),
    )
    return split, broken


def _too_small(stack: Stack, layout: Layout, tiling: Tiling | None) -> str:
    """Say why an array's examples cannot be cut into windows; nothing if they can."""
    if tiling is not None:
        try:
            tiling.starts(layout.shape_of(stack.shape)[1:])
        except UserError as error:
            return str(error)
    return ""


def _classifier(
    stack: Stack,
    labels: Sequence[Any] | None,
    number: int,
    layout: Layout,
    tiling: Tiling | None,
    classes: Sequence[Any],
    common: Mapping[Any, int],
) -> Callable[[Values, Any], Labels]:
    """Return what tells the classes of an array's examples, or of their windows at some places.

    Where every position along the first axis has a class, a window has the rarest that it meets.
    """
    if labels is None:
        return lambda numbers, places: np.zeros(len(numbers), np.int64)
    known = {name: number for number, name in enumerate(classes)}
    each = np.array([known[label] for label in labels], np.int64)
    if len(each) in (1, number):
        return lambda numbers, places: np.broadcast_to(each, number)[numbers]
    positions = layout.shape_of(stack.shape)[1]
    if tiling is None or number != 1 or len(each) != positions:
        raise UserError(
            f"dataset: {printable(stack.name)!r} has {counted(number, 'example')} and "
            f"{len(labels):,} classes"
        )
    by_rarity = np.array(sorted(range(len(classes)), key=lambda n: (-common[classes[n]], n)))
    rarity = np.argsort(by_rarity)[each]
    side = tiling.tile[0]

    def of_windows(numbers: Values, places: Any) -> Labels:
        rarest = [rarity[at : at + side].max() for at in places[:, 0].tolist()]
        return by_rarity[np.array(rarest, np.int64)]

    return of_windows


def _describe(
    stacks: Sequence[Stack], layout: Layout, tiling: Tiling | None, splits: Mapping[str, Arrays]
) -> list[str]:
    """Say what was found, and how it is understood."""
    first = stacks[0]
    files = {stack.path for stack in stacks}
    size = sum(prod(stack.shape) * stack.dtype.itemsize for stack in stacks)
    channels, *positions = layout.shape_of(first.shape)
    sizes = "x".join(map(str, positions)) + " values"
    if len({layout.shape_of(stack.shape) for stack in stacks}) > 1:
        sizes = "various sizes"
    lines = [
        f"{counted(sum(count(stack, layout) for stack in stacks), 'example')} in "
        f"{counted(len(files), 'file')} of {size / 1e6:,.1f} MB, {first.dtype}: layout "
        f"{layout.letters}, {counted(channels, 'channel')} of {sizes}"
    ]
    if tiling is not None:
        number = sum(map(len, splits.values()))
        sides = "x".join(map(str, tiling.tile))
        lines.append(f"cut into windows of {sides} values: {number:,}")
    return [*lines, *dict.fromkeys(note for stack in stacks for note in stack.notes)]


def _listed(broken: Sequence[tuple[str, str]]) -> list[str]:
    """Report examples that were left out; of many the first ones."""
    more = len(broken) - MOST_LISTED
    lines = [f"skipped, for {why}: {name}" for name, why in broken[:MOST_LISTED]]
    return [*lines, *([f"skipped like these: {more:,} more"] if more > 0 else [])]
