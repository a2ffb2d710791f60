"""Pictures by a table of their paths, classes and parts."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from convae.configuration import DatasetConfig
from convae.data.datasets import load_dataset
from convae.data.splits import Splits
from convae.errors import UserError
from tests.helpers import pixels_of


@pytest.fixture
def root(tmp_path) -> Path:
    """Thirty pictures whose grey is their number."""
    (tmp_path / "pictures").mkdir()
    for n in range(30):
        Image.new("L", (6, 5), n).save(tmp_path / "pictures" / f"{n}.png")
    return tmp_path


def table(root: Path, rows: list[list[Any]], name: str = "all.csv", delimiter: str = ",") -> Path:
    with (root / name).open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return root / name


def load(file: Path, **how: Any) -> Splits:
    return load_dataset(DatasetConfig(name="ImageFolder", root=str(file), **how))


def numbers(split: Any) -> list[int]:
    found: list[int] = pixels_of(split)[:, 0, 0, 0].tolist()
    return found


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("header", [["path", "label"], ["label", "filename", "more"], None])
def test_paths_and_classes(root, delimiter: str, header) -> None:
    names = ["good", "bad, or worse"]
    rows: list[list[Any]] = [[f"pictures/{n}.png", names[n % 2]] for n in range(30)]
    if header and header[0] == "label":
        rows = [[label, path, 7] for path, label in rows]
    data = load(table(root, [header, *rows] if header else rows, delimiter=delimiter))
    assert data.classes == ("bad, or worse", "good")
    parts = (data.train, data.validation, data.test)
    assert sorted(n for split in parts for n in numbers(split)) == [*range(30)]
    for split in parts:
        assert split.labels is not None
        assert split.labels.tolist() == [1 - n % 2 for n in numbers(split)]
    assert "30 files: 30 read as pictures" in data.notes
    assert data.notes[0].endswith("all.csv: 30 pictures: bad, or worse 15, good 15")


def test_parts(root) -> None:
    parts = ["train"] * 20 + ["val"] * 4 + ["TEST"] * 6
    rows = [[f"pictures/{n}.png", "ab"[n % 2], part] for n, part in enumerate(parts)]
    data = load(table(root, [["image", "class", "split"], *rows]), normal=["a"])
    assert numbers(data.train) == [*range(0, 20, 2)]
    assert numbers(data.validation) == [20, 22]
    assert numbers(data.test) == [*range(24, 30)]
    assert data.anomalous is not None
    assert data.anomalous.tolist() == [False, True] * 3


def test_paths_alone(root) -> None:
    data = load(table(root, [[f"pictures/{n}.png"] for n in range(30)]))
    assert len(data.train) == 24
    assert data.notes[0].endswith("all.csv: 30 pictures")


def test_missing_and_broken_pictures_are_left_out_and_listed(root) -> None:
    (root / "pictures" / "3.png").write_text("no picture")
    (root / "pictures" / "4.png").unlink()
    (root / "pictures" / "5.png").unlink()
    (root / "pictures" / "5.png").mkdir()
    file = table(root, [["path"], *([f"pictures/{n}.png"] for n in range(30))])
    data = load(file)
    listed = sorted(note for note in data.notes if note.startswith("skipped"))
    assert ["3.png" in listed[0], "4.png" in listed[1], "5.png" in listed[2]] == [True] * 3
    assert "30 files: 27 read as pictures, 3 that cannot be read" in data.notes
    with pytest.raises(UserError, match="3 images cannot be read"):
        load(file, strict=True)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "is empty"),
        ([["path", "label"], ["pictures/1.png"]], "line 2 of .* has 1 cells; expected 2"),
        ([["path", "split"], ["pictures/1.png", "trane"]], "line 2 .* has the part 'trane'"),
        ([["name", "label"], ["pictures/1.png", "a"]], "has the columns name, label, and none"),
        ([["a", "b", "c"]], "has the columns a, b, c, and none of paths"),
        ([["path"], ["pictures/1.png"], ["pictures/../pictures/1.png"]], "twice"),
        ([["path", "split"], ["pictures/1.png", "test"]], "names no pictures to train on"),
        ([["path"], ["nothing.png"]], "names no pictures to train on that exist"),
    ],
)
def test_what_does_not_fit_is_refused(root, rows, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(table(root, rows))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,label\npictures/1.png,ü\n".encode("latin-1"), "cannot be read as a table in UTF-8"),
        ("path\npictures/1.png\n".encode("utf-16"), "cannot be read as a table in UTF-8"),
        (b"path,label\n" + b"a" * 200_000 + b",b\n", "cannot be read as a table"),
        (b"path,label\npictures/1.png,a\npictures/2.png,\n", "line 3 .* has no class"),
        (b"path,label\npictures/1\0.png,a\n", "dataset.root: .*(no path|cannot be read)"),
    ],
)
def test_damaged_tables_are_named(root, content: bytes, message: str) -> None:
    (root / "all.csv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        load(root / "all.csv")
