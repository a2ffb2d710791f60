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


def scratch(dtype: type, value: float) -> np.ndarray:
    values = np.zeros((12, 12), dtype)
    values[2:4, 3:] = value
    return values


@pytest.mark.parametrize(
    "mask",
    [
        Image.fromarray(scratch(np.uint8, 1)),
        Image.fromarray(scratch(np.uint8, 100)),
        Image.fromarray(scratch(np.uint8, 255)),
        Image.fromarray(scratch(np.uint16, 65535)),
        Image.fromarray(scratch(np.uint16, 255)),
        Image.fromarray(scratch(np.int32, 1)),
        Image.fromarray(scratch(np.float32, 1)),
        Image.fromarray(scratch(np.uint8, 1) > 0),
        Image.fromarray(scratch(np.uint8, 255)).convert("RGB"),
        Image.fromarray(scratch(np.uint8, 255)).convert("RGBA"),
        Image.fromarray(scratch(np.uint8, 2)).convert("P"),
        Image.fromarray(scratch(np.uint8, 255)).convert("RGB").quantize(2),
    ],
    ids=lambda image: f"{image.mode} {np.asarray(image).max()}",
)
def test_masks_of_any_values(root, mask) -> None:
    path = root / "ground_truth" / "bent" / "000_mask.png"
    ending = ".tiff" if mask.mode in ("F", "I") else ".png"
    path.unlink()
    mask.save(path.with_suffix(ending))
    data = load(root)
    assert data.masks is not None
    assert isinstance(data.how, Preprocessing)
    found = read_mask(path.with_suffix(ending), data.how, (12, 12))
    np.testing.assert_array_equal(found, scratch(np.uint8, 1) > 0)


def test_numbers_of_classes_and_the_noise_of_jpeg(root, tmp_path) -> None:
    how = load(root).how
    assert isinstance(how, Preprocessing)
    several = scratch(np.uint8, 1)
    several[8:] = 3
    Image.fromarray(several).save(tmp_path / "several.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "several.png", how, (12, 12)), several > 0)
    noisy = scratch(np.uint8, 250)
    noisy[0, 0] = 9
    Image.fromarray(noisy).save(tmp_path / "noisy.png")
    found = read_mask(tmp_path / "noisy.png", how, (12, 12))
    np.testing.assert_array_equal(found, noisy == 250)


def test_masks_are_checked_before_training(root) -> None:
    path = root / "ground_truth" / "bent" / "000_mask.png"
    Image.new("L", (12, 12)).save(path)
    with pytest.raises(UserError, match=r"bent/000_mask\.png' marks nothing: all of it is black"):
        load(root)
    Image.new("L", (24, 12), 255).save(path)
    with pytest.raises(UserError, match=r"000_mask\.png' is 24x12.*picture.*12x12"):
        load(root)
    Image.new("L", (24, 24), 255).save(path)  # of another scale
    assert load(root).masks is not None
    path.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"000_mask\.png': not a picture"):
        load(root)


def test_masks_of_turned_pictures(root) -> None:
    """A camera's orientation turns the picture; a mask has to be as it is seen."""
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (18, 12)).save(root / "test" / "bent" / "000.png", exif=exif)
    path = root / "ground_truth" / "bent" / "000_mask.png"
    for size, is_fine in (((18, 12), False), ((12, 18), True)):
        Image.new("L", size, 255).save(path)
        if is_fine:
            assert load(root, image_size=12).masks is not None
        else:
            with pytest.raises(UserError, match=r"18x12.*stored or turned, 12x18"):
                load(root, image_size=12)


def test_all_colours_are_marks(root, tmp_path) -> None:
    how = load(root).how
    assert isinstance(how, Preprocessing)
    colours = np.zeros((12, 12, 3), np.uint8)
    colours[2, :] = 255
    colours[5, :, 0] = 255
    Image.fromarray(colours).save(tmp_path / "red.png")
    found = read_mask(tmp_path / "red.png", how, (12, 12))
    np.testing.assert_array_equal(found.all(axis=1), colours.any(axis=(1, 2)))
