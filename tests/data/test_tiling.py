"""Tiles: they cover their pictures, and those of a picture stay together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convae.configuration import DatasetConfig
from convae.data.datasets import load_dataset
from convae.data.pictures import Preprocessing
from convae.data.splits import InMemory, Splits, groups_of, of_pictures
from convae.data.tiling import TileStore, Tiling
from convae.errors import UserError
from tests.helpers import pixels_of


@pytest.mark.parametrize("tile", [(4, 5), (7, 3)])
@pytest.mark.parametrize("overlap", [0, 1, 2])
@pytest.mark.parametrize("size", [(7, 5), (8, 9), (20, 31)])
def test_tiles_cover_a_picture(rng, tile, overlap: int, size) -> None:
    tiling = Tiling(tile, overlap)
    picture = rng.integers(0, 256, (3, *size), dtype=np.uint8)
    tiles, places = tiling.cut(picture), list(tiling.places(size))
    assert len(tiles) == len(places) == len(set(places))
    met = np.zeros(size, int)
    for (top, left), one in zip(places, tiles, strict=True):
        where = (slice(top, top + tile[0]), slice(left, left + tile[1]))
        np.testing.assert_array_equal(one, picture[:, where[0], where[1]])
        met[where] += 1
    assert met.min() == 1 or overlap
    assert met.min() >= 1
    for axis in (0, 1):
        starts = sorted({place[axis] for place in places})
        distances = np.diff(starts)
        assert (distances[:-1] == tile[axis] - overlap).all()
        assert (distances <= tile[axis] - overlap).all()


@pytest.mark.parametrize(
    ("tile", "overlap", "message"),
    [((0, 4), 0, "tile: 0"), (4, 0, "tile: 4"), ((4, 6), 4, "overlap: 4"), ((4, 6), -1, "overlap"),
     ((), 0, "tile"), ((4.5, 4), 0, "tile: 4.5")],
)  # fmt: skip
def test_tiles_that_cannot_be_are_refused(tile, overlap, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Tiling(tile, overlap)


def test_pictures_smaller_than_a_tile() -> None:
    tiling = Tiling((4, 6))
    with pytest.raises(UserError, match="its 9x5 positions are less than a tile of 4x6"):
        tiling.cut(np.zeros((1, 9, 5)))
    picture = np.arange(15.0).reshape(1, 3, 5)
    continued = tiling.at_least(picture)
    assert continued.shape == (1, 4, 6)
    assert (continued[0, 3, :5] == picture[0, 2]).all()
    assert tiling.at_least(np.zeros((1, 9, 9))).shape == (1, 9, 9)


@pytest.mark.parametrize("limit", [0, 100, 10**6])
def test_a_store_is_the_same_in_memory_and_in_a_file(rng, limit: int) -> None:
    store = TileStore(limit)
    parts = [rng.integers(0, 256, (n, 2, 3, 4), dtype=np.uint8) for n in (3, 1, 5)]
    for part in parts:
        store.add(part)
    assert store.on_disk == (limit < 10**6)
    tiles = store.tiles()
    assert isinstance(tiles, np.memmap) == store.on_disk
    np.testing.assert_array_equal(tiles, np.concatenate(parts))


@pytest.fixture
def root(tmp_path, rng) -> Path:
    """Twenty pictures of different sizes; the red of each is its number."""
    for n in range(20):
        size = (20 + 3 * (n % 4), 24 + 5 * (n % 3), 3)
        pixels = rng.integers(0, 256, size, dtype=np.uint8)
        pixels[:, :, 0] = n
        (tmp_path / "ab"[n % 2]).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "ab"[n % 2] / f"{n:02}.png")
    return tmp_path


def load(root: Path, **how: Any) -> Splits:
    given = {"name": "ImageFolder", "root": str(root), "tile": [8, 10], "overlap": 2, **how}
    return load_dataset(DatasetConfig(**given))


def numbers(split: Any) -> np.ndarray:
    """The pictures' numbers that the tiles themselves tell."""
    return pixels_of(split)[:, 0, 0, 0]


@pytest.mark.parametrize("memory", [0, 100])
def test_tiles_of_a_folder(root, memory: int) -> None:
    data = load(root, memory_mb=memory)
    assert data.train.shape == (3, 8, 10)
    found = [set(numbers(split).tolist()) for split in (data.train, data.validation, data.test)]
    assert set.union(*found) == set(range(20))
    assert sum(map(len, found)) == 20  # no picture is in two parts
    assert [len(part) for part in found] == [16, 2, 2]
    for split in (data.train, data.validation, data.test):
        assert isinstance(split, InMemory)
        assert isinstance(split.pixels, np.memmap) == False or memory == 0  # noqa: E712
        groups = groups_of(split)
        assert groups is not None
        assert split.files is not None
        names = np.array([int(Path(file).stem) for file in split.files])
        assert (names == numbers(split)).all()
        assert split.labels is not None
        assert (split.labels == names % 2).all()
        assert len(of_pictures(split, names)) == len(set(names.tolist()))
    with Image.open(root / "a" / "00.png") as picture:
        expected = Tiling((8, 10), 2).cut(np.asarray(picture).transpose(2, 0, 1))
    every = np.concatenate([pixels_of(s) for s in (data.train, data.validation, data.test)])
    np.testing.assert_array_equal(every[every[:, 0, 0, 0] == 0], expected)
    count = sum(len(split) for split in (data.train, data.validation, data.test))
    where = ", in a temporary file" if memory == 0 else ""
    assert f"cut into tiles: {count:,}{where}" in data.notes
    assert "20 files: 20 read as pictures" in data.notes
    assert isinstance(data.how, Preprocessing)
    assert (data.how.tile, data.how.overlap, data.how.size) == ((8, 10), 2, None)


def test_memory_does_not_show(root) -> None:
    kept, mapped = load(root), load(root, memory_mb=0)
    assert kept.fingerprints() == mapped.fingerprints()


def test_pictures_may_be_scaled_before_they_are_cut(root) -> None:
    data = load(root, image_size=[16, 30])
    assert isinstance(data.how, Preprocessing)
    assert data.how.size == (16, 30)
    groups = groups_of(data.train)
    assert groups is not None
    assert set(np.unique(groups, return_counts=True)[1].tolist()) == {3 * 4}


def test_small_pictures_are_left_out_and_listed(root) -> None:
    Image.new("RGB", (9, 40)).save(root / "a" / "small.png")
    data = load(root)
    (skipped,) = [note for note in data.notes if note.startswith("skipped")]
    assert skipped.endswith("small.png (its 40x9 positions are less than a tile of 8x10)")
    assert "21 files: 20 read as pictures, 1 that cannot be read" in data.notes
    with pytest.raises(UserError, match="1 image cannot be read"):
        load(root, strict=True)


def test_anomalous_are_pictures_not_tiles(root) -> None:
    data = load(root, normal=["a"])
    assert data.anomalous is not None
    assert data.anomalous.tolist() == [n % 2 == 1 for n in dict.fromkeys(numbers(data.test))]
    few = load(root, normal=["a"], evaluation_limit=5)
    assert few.anomalous is not None
    assert len(few.anomalous) == len(dict.fromkeys(numbers(few.test)))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"tile": 1}, "dataset.tile: 1"),
        ({"tile": [8]}, r"dataset.tile: \[8\] is neither"),
        ({"tile": [8, "a"]}, "dataset.tile: 'a'"),
        ({"overlap": 8}, "dataset.overlap: 8 is out of range"),
        ({"tile": None}, "dataset.overlap: 2 needs dataset.tile"),
        ({"check": False}, "dataset.check: pictures are read once"),
        ({"name": "digits"}, "dataset.tile: 'digits' has a fixed form"),
    ],
)
def test_what_makes_no_sense_is_refused(root, how: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(root, **how)
