"""Masks beside test pictures, as MVTec AD has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convae.configuration import DatasetConfig
from convae.data.datasets import load_dataset
from convae.data.masks import read_mask
from convae.data.pictures import Preprocessing
from convae.data.splits import Splits
from convae.errors import UserError
from tests.helpers import write_pictures


@pytest.fixture
def root(tmp_path) -> Path:
    write_pictures(tmp_path / "train" / "good", 12)
    write_pictures(tmp_path / "test" / "good", 3)
    for name in ("bent", "cut"):
        write_pictures(tmp_path / "test" / name, 2)
        (tmp_path / "ground_truth" / name).mkdir(parents=True)
        for index in range(2):
            mask = np.zeros((12, 12), np.uint8)
            mask[index, 3:] = 255
            path = tmp_path / "ground_truth" / name / f"{index:03}_mask.png"
            Image.fromarray(mask).save(path)
    return tmp_path


def load(root: Path, **how: object) -> Splits:
    given: dict = {"name": "ImageFolder", "root": str(root), "normal": ["good"], **how}
    return load_dataset(DatasetConfig(**given))


def test_anomalous_pictures_have_masks_and_normal_ones_none(root) -> None:
    data = load(root)
    assert data.masks is not None
    assert data.test.files is not None
    places = [Path(file).relative_to(root / "test") for file in data.test.files]
    for place, mask in zip(places, data.masks, strict=True):
        if place.parts[0] == "good":
            assert mask is None
        else:
            name = f"{place.stem}_mask.png"
            assert mask == root / "ground_truth" / place.parts[0] / name
    assert "masks mark what is anomalous in 4 test images" in data.notes
    few = load(root, evaluation_limit=5)  # masks follow the images that are drawn
    assert few.masks is not None
    assert few.anomalous is not None
    assert [mask is not None for mask in few.masks] == few.anomalous.tolist()


def test_masks_follow_images_that_can_be_read(root) -> None:
    (root / "test" / "bent" / "000.png").write_text("no picture")
    data = load(root)
    assert data.masks is not None
    names = [mask.name for mask in data.masks if mask]
    assert names == ["001_mask.png", "000_mask.png", "001_mask.png"]


def test_other_names_of_masks(root) -> None:
    for path in (root / "ground_truth").rglob("*_mask.png"):
        with Image.open(path) as mask:
            mask.save(path.with_name(path.name.replace("_mask.png", ".bmp")))
        path.unlink()
    masks = load(root).masks
    assert masks is not None
    assert [mask.name for mask in masks if mask] == ["000.bmp", "001.bmp"] * 2


def test_a_missing_mask_is_named(root) -> None:
    (root / "ground_truth" / "cut" / "001_mask.png").unlink()
    with pytest.raises(UserError, match=r"no mask for .*cut/001\.png'; add it, as in 001_mask"):
        load(root)


def test_without_normal_classes_there_are_no_masks(root) -> None:
    assert load(root, normal=None).masks is None


def test_masks_are_read_as_their_pictures(root, tmp_path) -> None:
    mask = np.zeros((12, 12), np.uint8)
    mask[:6, 3:] = 255
    Image.fromarray(mask).save(root / "ground_truth" / "bent" / "000_mask.png")
    data = load(root, image_size=[6, 8], fit="stretch")
    assert isinstance(data.how, Preprocessing)
    assert data.masks is not None
    expected = np.zeros((6, 8), bool)
    expected[:3, 2:] = True
    assert (read_mask(data.masks[0], data.how, (6, 8)) == expected).all()
    assert not read_mask(None, data.how, (6, 8)).any()
    with pytest.raises(UserError, match=r"mask .*_mask\.png' is \(6, 8\).*its picture \(6, 9\)"):
        read_mask(data.masks[0], data.how, (6, 9))
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(UserError, match=r"mask .*text\.png': not a picture"):
        read_mask(tmp_path / "text.png", data.how, (6, 8))
