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


LATER = """
import numpy as np


class Base:
    def __init__(self, **how):
        vars(self).update(how)

    def __len__(self):
        return 40

    def picture(self, index):
        return np.full((6, 5), index, np.uint8)

    def __getitem__(self, index):
        return self.picture(index), self.label(index)

    def label(self, index):
        return None


class Names(Base):
    def label(self, index):
        return ["good", "bad"][index % 2]


class Ordered(Base):
    classes = ["dog", "cat"]

    def label(self, index):
        return ["cat", "dog", "dog", "bird"][index % self.kinds]


class Boxes(Base):
    def label(self, index):
        return {"boxes": [[1, 2], [3]]}


class Flags(Base):
    def label(self, index):
        return index % 2 == 1


class Floats(Base):
    def label(self, index):
        return 0.5


class Late(Base):
    def label(self, index):
        return None if index == 7 else 1


class Failing(Names):
    def picture(self, index):
        if index in (0, 7):
            raise RuntimeError("the disk has gone")
        return super().picture(index)


class Never(Base):
    def picture(self, index):
        raise RuntimeError("the disk has gone")


class Unnamed(Base):
    classes = ["only one"]

    def label(self, index):
        return index % 2


class Five(Base):
    classes = 5


class Negative(Base):
    def __len__(self):
        return -1


class Angry(Base):
    def __init__(self):
        raise ValueError("not today")


class Deep(Base):
    def picture(self, index):
        return np.full((6, 5, 3), 256 * index, np.uint16)


class Tensors(Base):
    def picture(self, index):
        import torch

        return torch.full((1, 6, 5), index / 64, dtype=torch.bfloat16, requires_grad=True)
"""


@pytest.fixture
def later(tmp_path, monkeypatch) -> str:
    (tmp_path / "later_module.py").write_text(LATER)
    (tmp_path / "torn_module.py").write_text("def (")
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("later_module", None)
    return "later_module"


def test_names_and_flags_are_classes(later) -> None:
    named = load(f"{later}.Names", normal=["good"])
    assert named.classes == ("bad", "good")
    assert named.anomalous is not None
    assert named.anomalous.sum() == 20
    assert load(f"{later}.Flags", normal=[1]).anomalous is not None


def test_items_that_fail_are_left_out_and_the_others_keep_their_classes(later) -> None:
    data = load(f"{later}.Failing")
    parts = (data.train, data.validation, data.test)
    assert sum(map(len, parts)) == 38
    for split in parts:
        assert split.labels is not None
        numbers = np.concatenate(list(split.batches(50)))[:, 0, 0, 0]
        assert split.labels.tolist() == [1 - n % 2 for n in numbers.tolist()]
    skipped = [note for note in data.notes if note.startswith("skipped")]
    assert len(skipped) == 2
    assert all("the disk has gone" in note for note in skipped)


@pytest.mark.parametrize(("name", "value"), [("Deep", 39), ("Tensors", 155)])
def test_more_kinds_of_pictures(later, name: str, value: int) -> None:
    data = load(f"{later}.{name}")
    parts = (data.train, data.validation, data.test)
    largest = max(int(np.max(next(iter(split.batches(50))))) for split in parts)
    assert largest == pytest.approx(value, abs=1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{}.Floats", "an item has the class 0.5; expected a whole number"),
        ("{}.Late", "item 7 has no class, and the first has one"),
        ("{}.Never", "no item can be read; the first: RuntimeError: the disk has gone"),
        ("{}.Unnamed", "class 1 has no name among its 1 classes"),
        ("{}.Five", "its classes are 5; expected a list"),
        ("{}.Negative", "the length of"),
        ("{}.Angry", "ValueError: not today"),
        ("torn_module.X", "'torn_module' cannot be imported: SyntaxError"),
        (".", "not of the form module.Class"),
        ("..X", "not of the form module.Class"),
        ("./later_module.Names", "not of the form module.Class"),
    ],
)
def test_errors_of_a_users_code_are_named(later, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(name.replace("{}", later))


def test_names_are_numbered_as_the_dataset_has_them(later) -> None:
    data = load(f"{later}.Ordered", train={"kinds": 3})
    assert data.classes == ("dog", "cat")
    for split in (data.train, data.validation, data.test):
        numbers = np.concatenate(list(split.batches(50)))[:, 0, 0, 0]
        assert split.labels is not None
        assert split.labels.tolist() == [int(n % 3 == 0) for n in numbers.tolist()]
    with pytest.raises(UserError, match="'bird' is not among its classes dog, cat"):
        load(f"{later}.Ordered", train={"kinds": 4})
    assert load(f"{later}.Boxes").train.labels is None
