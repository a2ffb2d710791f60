"""Datasets of a user's own module: what items may be, and what is said of others."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convae.configuration import DatasetConfig
from convae.data.custom import to_picture
from convae.data.datasets import load_dataset
from convae.errors import UserError

MODULE = '''
import numpy as np
from PIL import Image


def pixels(index):
    return np.full((6, 5, 3), 10 * index % 256, np.uint8)


class Pairs:
    """Pictures and their classes."""

    classes = ["even", "odd"]

    def __init__(self, count, offset=0):
        self.count, self.offset = count, offset

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if not 0 <= index < self.count:
            raise IndexError(index)
        return Image.fromarray(pixels(index + self.offset)), index % 2


class Arrays:
    """Arrays alone."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return pixels(index).transpose(2, 0, 1) / np.float32(255)


class Sometimes(Arrays):
    """A label now and then, and a picture that cannot be read."""

    def __getitem__(self, index):
        return (pixels(index), 1) if index < 4 else (pixels(index), "no class")


class Broken(Arrays):
    def __getitem__(self, index):
        if index == 7:
            raise RuntimeError("the disk has gone")
        return pixels(index)


class Numbers(list):
    def __init__(self):
        super().__init__([[1, 2], [3, 4]])


def nothing():
    return []


def iterator():
    return iter(range(3))


number = 3
'''


@pytest.fixture
def module(tmp_path, monkeypatch) -> str:
    """The name of a module in the current folder."""
    name = f"own_{tmp_path.name.replace('-', '_')}"
    Path(tmp_path, f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(tmp_path)])
    return name


def load(name: str, **how: object):
    return load_dataset(DatasetConfig(name=name, workers=0, **how))


@pytest.mark.parametrize("memory_mb", [0, 100])
def test_pairs_of_a_picture_and_its_class(module, memory_mb: int) -> None:
    splits = load(
        f"{module}.Pairs", train={"count": 12}, test={"count": 4, "offset": 3},
        memory_mb=memory_mb,
    )  # fmt: skip
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (11, 1, 4)
    assert splits.train.shape == (3, 6, 5)
    assert splits.classes == ("even", "odd")
    assert splits.test.labels.tolist() == [0, 1, 0, 1]
    (batch,) = splits.test.batches(10)
    assert batch[:, 0, 0, 0].tolist() == [30, 40, 50, 60]


def test_a_class_is_normal(module) -> None:
    splits = load(f"{module}.Pairs", train={"count": 60}, test={"count": 4}, normal=["odd"])
    assert splits.anomalous.tolist() == [True, False, True, False]


def test_pictures_that_a_dataset_keeps_stay_open(tmp_path, module) -> None:
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "one.png")
    kept = Image.open(tmp_path / "one.png")
    for _ in range(2):
        with to_picture(kept) as picture:
            assert np.asarray(picture).shape == (4, 5)


def test_arrays_alone(module) -> None:
    splits = load(f"{module}.Arrays")
    pixels = [next(iter(part.batches(10))) for part in (splits.train, splits.validation)]
    pixels.append(next(iter(splits.test.batches(10))))
    values = np.concatenate(pixels)
    assert sorted(values[:, 0, 0, 0].tolist()) == [10 * n for n in range(10)]
    assert splits.train.labels is None


def test_one_that_cannot_be_read_is_named(module) -> None:
    with pytest.raises(UserError, match=r"number 7: the disk has gone"):
        load(f"{module}.Broken", strict=True)
    assert len(load(f"{module}.Broken").train) == 7


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module.Thing", r"dataset.name: there is no module 'no_such_module'"),
        ("{}.Missing", r"has no class or function 'Missing'"),
        ("{}.number", r"has no class or function 'number'"),
        ("{}.Pairs", r"rejects the arguments {} "),
        ("{}.nothing", r"is empty"),
        ("{}.iterator", r"has no length"),
        ("{}.Sometimes", r"item 4 has the class 'no class', and others numbers"),
        ("{}.Numbers", r"an item is int \(\) of int64"),
        ("Nonsense", r"module.Class of your own"),
    ],
)
def test_mistakes_are_named(module, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message.replace("{}", r"\{\}")):
        load(name.replace("{}", module))


@pytest.mark.parametrize(
    ("shape", "mode", "size"),
    [
        ((4, 5), "L", (5, 4)),
        ((1, 4, 5), "L", (5, 4)),
        ((4, 5, 1), "L", (5, 4)),
        ((3, 4, 5), "RGB", (5, 4)),
        ((4, 5, 3), "RGB", (5, 4)),
        ((3, 4, 3), "RGB", (4, 3)),  # the last axis, as Pillow has it
    ],
)
def test_where_the_channels_are(shape, mode: str, size) -> None:
    picture = to_picture(np.zeros(shape, np.uint8))
    assert (picture.mode, picture.size) == (mode, size)


def test_values_are_kept() -> None:
    grey = np.arange(20, dtype=np.uint8).reshape(4, 5)
    assert (np.asarray(to_picture(grey)) == grey).all()
    assert (np.asarray(to_picture(grey / np.float64(255))) == grey).all()
    deep = np.arange(20, dtype=np.uint16).reshape(4, 5) * 3000
    assert (np.asarray(to_picture(deep)) == deep).all()
    picture = Image.fromarray(grey)
    assert to_picture(picture) is picture


def test_tensors_are_arrays() -> None:
    torch = pytest.importorskip("torch")
    picture = to_picture(torch.full((3, 4, 5), 0.2))
    assert picture.size == (5, 4)
    assert np.asarray(picture)[0, 0].tolist() == [51, 51, 51]


@pytest.mark.parametrize(
    "item",
    [
        np.zeros((2, 4, 5), np.uint8),
        np.zeros((4, 5), np.int64),
        np.full((4, 5), 1.5),
        np.full((4, 5), np.nan),
        np.zeros((0, 5), np.uint8),
        np.zeros((0, 5)),
        "picture.png",
        None,
        {"image": 3},
    ],
)
def test_other_items_are_refused(item: object) -> None:
    with pytest.raises(UserError, match="expected a picture of Pillow"):
        to_picture(item)
