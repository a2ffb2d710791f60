"""Datasets of your own in Python, named by module and class: what their items may be."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from convae.configuration import DatasetConfig
from convae.data.reading import labels_of
from convae.data.splits import Labels
from convae.errors import UserError

WANTED = (
    "expected a picture of Pillow, or an array or tensor (rows, columns), with 1 or 3 channels "
    "first or last, of uint8, uint16 or floats in [0, 1]; alone, or first of a pair with its "
    "class; signals, volumes and other channels are read from files by dataset=arrays"
)


class Items:
    """A dataset whose items are pairs of a picture and a label, as torchvision's are.

    Parameters
    ----------
    dataset : object
        With a length; its items are what `WANTED` says.

    Attributes
    ----------
    targets : (N,) ndarray of int, or None
        The classes, where the dataset has them, or its items.
    classes : sequence
        Their names, where the dataset has them.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        names = getattr(dataset, "classes", None)
        if not isinstance(names, list | tuple | None):
            raise UserError(f"dataset: its classes are {names!r}; expected a list of names")
        self.targets, found = _targets(dataset, [*map(str, names or ())])
        self.classes = names or found
        if self.targets is not None and names and self.targets.max() >= len(names):
            raise UserError(
                f"dataset: class {self.targets.max()} has no name among its {len(names)} classes"
            )

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Return one item; the label is -1 where there are none."""
        label = -1 if self.targets is None else int(self.targets[index])
        return to_picture(_image_of(self.dataset[index])), label


def is_custom(name: str) -> bool:
    """Tell whether the name of a dataset is that of a class in a module."""
    return "." in name


def open_custom(config: DatasetConfig, arguments: dict[str, Any]) -> Items:
    """Import what `dataset.name` names, from the current folder too, and call it."""
    if not all(part.isidentifier() for part in config.name.split(".")):
        raise UserError(f"dataset.name: {config.name!r} is not of the form module.Class")
    module_name, _, name = config.name.rpartition(".")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise  # of something that the module imports
        raise UserError(
            f"dataset.name: there is no module {module_name!r}, neither installed nor in "
            f"{os.getcwd()!r}; expected module.Class"
        ) from None
    except Exception as error:  # of that module
        raise UserError(
            f"dataset.name: {module_name!r} cannot be imported: {_said(error)}"
        ) from error
    build = getattr(module, name, None)
    if not callable(build):
        raise UserError(f"dataset.name: {module_name!r} has no class or function {name!r}")
    try:
        dataset = build(**arguments)
    except TypeError as error:
        raise UserError(
            f"dataset: {config.name} rejects the arguments {arguments} ({error}); set "
            "dataset.train, and dataset.test, to what it takes"
        ) from error
    except Exception as error:  # of its own
        raise UserError(f"dataset: {config.name} with {arguments}: {_said(error)}") from error
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise UserError(f"dataset.name: {config.name} has no length, or no items by number")
    try:
        is_empty = not len(dataset)
    except (TypeError, ValueError) as error:
        raise UserError(f"dataset: the length of {config.name}: {error}") from error
    if is_empty:
        raise UserError(f"dataset: {config.name} is empty with the arguments {arguments}")
    to_picture(_image_of(_first(dataset)))  # what is no picture is said before all are read
    return Items(dataset)


def _first(dataset: Any) -> Any:
    """Return the first item that can be read."""
    first = None
    for index in range(len(dataset)):
        try:
            return dataset[index]
        except MemoryError:
            raise
        except Exception as error:  # of the dataset's own
            first = first or error
    raise UserError(f"dataset: no item can be read; the first: {_said(first)}") from first


def _said(error: BaseException | None) -> str:
    """Name an error of other people's code, and what it says."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def to_picture(image: Any) -> Image.Image:
    """Make an item a picture of Pillow."""
    if isinstance(image, Image.Image):
        image.load()  # its file may be closed afterwards, and the dataset may keep it
        return image
    if hasattr(image, "detach"):  # a tensor, perhaps of a type that NumPy does not have
        image = image.detach().cpu()
        image = image.float() if image.is_floating_point() else image
    values = np.asarray(image)
    if values.ndim == 3 and values.shape[0] in (1, 3) and values.shape[2] not in (1, 3):
        values = values.transpose(1, 2, 0)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    is_picture = values.ndim == 2 or (values.ndim == 3 and values.shape[2] == 3)
    if is_picture and np.issubdtype(values.dtype, np.floating):
        if not ((values >= 0) & (values <= 1)).all():
            raise UserError(f"dataset: an item has values that are not in [0, 1]; {WANTED}")
        values = np.rint(values * 255).astype(np.uint8)
    if is_picture and values.dtype == np.uint16 and values.ndim == 3:
        values = (values >> 8).astype(np.uint8)  # as of picture files in colour
    is_deep = values.dtype == np.uint16 and values.ndim == 2
    if not (is_picture and values.size and (values.dtype == np.uint8 or is_deep)):
        raise UserError(
            f"dataset: an item is {type(image).__name__} {values.shape} of {values.dtype}; {WANTED}"
        )
    return Image.fromarray(np.ascontiguousarray(values))


def _image_of(item: Any) -> Any:
    return item[0] if isinstance(item, tuple | list) and item else item


def _targets(dataset: Any, known: list[str]) -> tuple[Labels | None, Sequence[str]]:
    """Return the classes that a dataset has for all items, or that its items have, and names.

    Names of classes are numbered as the dataset has them, if it has.
    An item that cannot be read is of class -1 until it is left out.
    """
    if (labels := labels_of(dataset)) is not None:
        return labels, ()
    if _label_of(_first(dataset)) is None:
        return None, ()
    each: list[int | str | None] = []
    kind: type | None = None
    for index in tqdm(
        range(len(dataset)), desc="reading labels", unit=" items", disable=None, leave=False
    ):
        try:
            item = dataset[index]
        except MemoryError:
            raise
        except Exception:  # of the dataset's own: it is named when pictures are read
            each.append(None)
            continue
        label = _label_of(item)
        if label is None:
            raise UserError(f"dataset: item {index} has no class, and the first has one")
        kind = kind or type(label)
        if type(label) is not kind:
            of = "numbers" if kind is int else "names"
            raise UserError(f"dataset: item {index} has the class {label!r}, and others {of}")
        each.append(label)
    if kind is int:
        return np.array([-1 if label is None else label for label in each], np.int64), ()
    found = {str(label) for label in each if label is not None}
    names = known or sorted(found)
    if unknown := sorted(found - {*names}):
        raise UserError(f"dataset: {unknown[0]!r} is not among its classes {', '.join(names)}")
    numbers = {name: number for number, name in enumerate(names)}
    return np.array([numbers.get(str(label), -1) for label in each], np.int64), names


def _label_of(item: Any) -> int | str | None:
    """Return the class of an item, a whole number or a name, if it is a pair with one."""
    if not isinstance(item, tuple | list) or len(item) < 2 or item[1] is None:
        return None
    if isinstance(item[1], dict | list | tuple):
        return None  # a mask, boxes or the like
    label = np.asarray(item[1])
    if label.ndim > 0 or label.dtype.kind == "O":
        return None
    if label.dtype.kind in "iub":
        return int(label)
    if label.dtype.kind == "U":
        return str(label)
    raise UserError(
        f"dataset: an item has the class {item[1]!r}; expected a whole number, a name or none"
    )
