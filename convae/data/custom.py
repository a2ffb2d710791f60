"""Datasets of your own in Python, named by module and class: what their items may be."""

from __future__ import annotations

import importlib
import os
import sys
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
    "first or last, of uint8, uint16 or floats in [0, 1]; alone, or first of a pair with its class"
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
        self.classes = getattr(dataset, "classes", None) or ()
        self.targets = _targets(dataset)

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
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise UserError(f"dataset.name: {config.name} has no length, or no items by number")
    if not len(dataset):
        raise UserError(f"dataset: {config.name} is empty with the arguments {arguments}")
    to_picture(_image_of(dataset[0]))  # what is no picture at all is said before all are read
    return Items(dataset)


def to_picture(image: Any) -> Image.Image:
    """Make an item a picture of Pillow."""
    if isinstance(image, Image.Image):
        image.load()  # its file may be closed afterwards, and the dataset may keep it
        return image
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
    is_deep = values.dtype == np.uint16 and values.ndim == 2
    if not (is_picture and values.size and (values.dtype == np.uint8 or is_deep)):
        raise UserError(
            f"dataset: an item is {type(image).__name__} {values.shape} of {values.dtype}; {WANTED}"
        )
    return Image.fromarray(np.ascontiguousarray(values))


def _image_of(item: Any) -> Any:
    return item[0] if isinstance(item, tuple | list) and item else item


def _targets(dataset: Any) -> Labels | None:
    """Return the classes that a dataset has for all items, or that its items have."""
    if (known := labels_of(dataset)) is not None:
        return known
    if _label_of(dataset[0]) is None:
        return None
    numbers = tqdm(
        range(len(dataset)), desc="reading labels", unit=" items", disable=None, leave=False
    )
    each = [_label_of(dataset[index]) for index in numbers]
    if None in each:
        raise UserError(f"dataset: item {each.index(None)} has no class, and the first has one")
    return np.array(each, np.int64)


def _label_of(item: Any) -> int | None:
    """Return the class of an item, if it is a pair with a whole number."""
    if not isinstance(item, tuple | list) or len(item) < 2:
        return None
    label = np.asarray(item[1])
    return int(label) if label.ndim == 0 and np.issubdtype(label.dtype, np.integer) else None
