"""A dataset divided into training, validation and test images."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from convae.configuration import DatasetConfig
from convae.data.datasets import load_dataset
from convae.errors import UserError
from tests.helpers import pixels_of, write_pictures


def test_parts_make_up_the_whole() -> None:
    splits = load_dataset(DatasetConfig(name="digits"))
    parts = [pixels_of(split) for split in (splits.train, splits.validation, splits.test)]
    assert [len(part) for part in parts] == [1455, 162, 180]  # a tenth each, of what is left
    found = np.concatenate(parts)[:, 0]
    expected = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
    assert sorted(image.tobytes() for image in found) == sorted(
        image.tobytes() for image in expected
    )


def test_splits_depend_on_the_seed() -> None:
    first, same, other = (
        pixels_of(load_dataset(DatasetConfig(name="digits"), seed).train) for seed in (0, 0, 1)
    )
    assert (first == same).all()
    assert (first != other).any()


def test_labels_stay_with_their_images() -> None:
    digits = load_digits()
    known = {
        np.rint(image * (255 / 16)).astype(np.uint8).tobytes(): label
        for image, label in zip(digits.images, digits.target, strict=True)
    }
    splits = load_dataset(DatasetConfig(name="digits", limit=50, evaluation_limit=20))
    for split, count in ((splits.train, 50), (splits.validation, 20), (splits.test, 20)):
        assert len(split) == len(split.labels) == count
        for image, label in zip(pixels_of(split), split.labels, strict=True):
            assert known[image.tobytes()] == label


def test_normal_classes_are_all_that_is_trained_on() -> None:
    splits = load_dataset(DatasetConfig(name="digits", normal=[3, 8]))
    for split in (splits.train, splits.validation):
        assert set(split.labels) == {3, 8}
    assert set(splits.test.labels) == set(range(10))
    assert (splits.anomalous == ~np.isin(splits.test.labels, [3, 8])).all()


def test_normal_folders_by_name(tmp_path) -> None:
    """As defect datasets come: only good pictures to train on, good and bad ones to test."""
    write_pictures(tmp_path / "train" / "good", 10)
    for name in ("bent", "good", "scratched"):
        write_pictures(tmp_path / "test" / name, 3)
    config = DatasetConfig(name="ImageFolder", root=str(tmp_path), normal=["good"])
    splits = load_dataset(config)
    assert len(splits.train) + len(splits.validation) == 10
    assert splits.anomalous.tolist() == [True] * 3 + [False] * 3 + [True] * 3


def test_masks_of_anomalies_are_no_pictures(tmp_path) -> None:
    """As MVTec AD comes."""
    write_pictures(tmp_path / "train" / "good", 10)
    for name in ("bent", "good"):
        write_pictures(tmp_path / "test" / name, 3)
    write_pictures(tmp_path / "ground_truth" / "bent", 3, mode="L")
    Image.new("L", (12, 12), 255).save(tmp_path / "ground_truth" / "bent" / "000.png")
    config = DatasetConfig(name="ImageFolder", root=str(tmp_path), normal=["good"])
    splits = load_dataset(config)
    assert splits.anomalous.tolist() == [True] * 3 + [False] * 3
    assert splits.notes[2] == "ground_truth/ holds masks, and no images"
    (tmp_path / "train").rename(tmp_path / "other")
    with pytest.raises(ValueError, match=r"no pictures|no train/|dataset.normal"):
        load_dataset(config)


def test_good_pictures_alone_are_enough(tmp_path) -> None:
    write_pictures(tmp_path / "good", 20)
    splits = load_dataset(DatasetConfig(name="ImageFolder", root=str(tmp_path), normal=["good"]))
    assert splits.anomalous is None
    assert "the test images are all normal" in splits.notes[-1]


def test_test_images_that_are_all_anomalous_are_refused(tmp_path) -> None:
    write_pictures(tmp_path / "train" / "good", 10)
    write_pictures(tmp_path / "test" / "bent", 3)
    config = DatasetConfig(name="ImageFolder", root=str(tmp_path), normal=["good"])
    with pytest.raises(ValueError, match="the 3 test images are all anomalous"):
        load_dataset(config)


@pytest.mark.parametrize("normal", [[], [10], [3, 11]])
def test_normal_classes_that_are_not_there_are_refused(normal: list[int]) -> None:
    with pytest.raises(ValueError, match=r"dataset.normal: .* is not a list of classes among 0, 1"):
        load_dataset(DatasetConfig(name="digits", normal=normal))


@pytest.mark.parametrize(
    ("normal", "says"),
    [
        ([True], "is not a list of classes"),
        ([[1, 2]], "is not a list of classes"),
    ],
)
def test_normal_classes_that_make_no_sense(normal: list, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        load_dataset(DatasetConfig(name="digits", normal=normal))


def test_a_class_of_too_few_images(tmp_path) -> None:
    write_pictures(tmp_path / "many", 30)
    write_pictures(tmp_path / "few", 2)
    config = DatasetConfig(name="ImageFolder", root=str(tmp_path), normal=["few"])
    with pytest.raises(ValueError, match=r"holdout: 0.1 of 2 images leaves none for testing"):
        load_dataset(config)


def test_sides_of_pictures_can_differ(tmp_path) -> None:
    write_pictures(tmp_path / "one", 20, side=12)
    how = {"image_size": [8, 20], "fit": "pad", "background": "black"}
    splits = load_dataset(DatasetConfig(name="ImageFolder", root=str(tmp_path), **how))
    assert splits.train.shape == (3, 8, 20)
    assert (splits.how.size, splits.how.fit) == ((8, 20), "pad")
    (batch,) = splits.validation.batches(10)
    assert batch[..., :6].max() == batch[..., 14:].max() == 0 < batch[..., 6:14].max()


def test_photographs_have_no_classes() -> None:
    with pytest.raises(ValueError, match=r"dataset.normal: this dataset has no classes"):
        load_dataset(DatasetConfig(name="photos", normal=[0]))


def test_halves_of_different_shapes_are_refused(tmp_path) -> None:
    write_pictures(tmp_path / "train", 20, side=12)
    write_pictures(tmp_path / "test", 4, side=8)
    with pytest.raises(ValueError, match=r"test images \(3, 8, 8\); set dataset.image_size"):
        load_dataset(DatasetConfig(name="ImageFolder", root=str(tmp_path)))


@pytest.mark.parametrize(
    ("arguments", "kind", "says"),
    [
        ({"name": "nosuch"}, ValueError, "dataset.name: 'nosuch' is unknown; expected .*digits"),
        ({"name": "digits", "holdout": 0.9}, ValueError, "dataset.holdout: 0.9 is out of range"),
        ({"name": "digits", "holdout": 0.0001}, ValueError, "leaves none for testing"),
        ({"name": "digits", "channels": 3}, ValueError, "dataset.channels: 'digits'"),
        ({"name": "photos", "image_size": 9}, ValueError, "dataset.image_size: 'photos'"),
        ({"name": "MNIST", "channels": 2}, ValueError, "dataset.channels: 2"),
        (
            {"name": "MNIST", "limit": 0},
            ValueError,
            "dataset.limit: 0 is out of range; .*integer.*2",
        ),
        (
            {"name": "MNIST", "image_size": 5000},
            ValueError,
            "dataset.image_size: 5000 is out of range; .*4096",
        ),
        ({"name": "MNIST", "image_size": [4]}, ValueError, r"image_size: \[4\] is neither"),
        ({"name": "MNIST", "image_size": [4, 0]}, ValueError, "dataset.image_size: 0 is out"),
        ({"name": "MNIST", "image_size": "8"}, TypeError, "dataset.image_size: '8' is not"),
        ({"name": "MNIST", "fit": "pad"}, ValueError, "dataset.fit: 'pad' needs dataset.image_s"),
        (
            {"name": "MNIST", "image_size": 9, "fit": "squeeze"},
            ValueError,
            "dataset.fit: 'squeeze' is unknown; expected one of crop, pad, stretch",
        ),
        ({"name": "MNIST", "train": {"x": 1}}, ValueError, r"dataset: MNIST .*\{'x': 1\}"),
        ({"name": "ImageFolder", "root": "/no/such"}, FileNotFoundError, "folder '/no/such'"),
    ],
)
def test_bad_configurations_are_refused_by_name(arguments: dict, kind: type, says: str) -> None:
    with pytest.raises(kind, match=says):
        load_dataset(DatasetConfig(**arguments))


@pytest.mark.parametrize("validation", [False, True])
def test_all_anomalies_of_a_dataset_without_a_test_half_are_tested(tmp_path, validation) -> None:
    root = tmp_path / "train" if validation else tmp_path
    write_pictures(root / "good", 40)
    write_pictures(root / "bad", 12)
    if validation:
        write_pictures(tmp_path / "val" / "good", 5, side=12)
    splits = load_dataset(DatasetConfig(name="ImageFolder", root=str(tmp_path), normal=["good"]))
    assert splits.anomalous.sum() == 12
    assert len(splits.test) == 12 + 4
    parts = (
        (splits.train, splits.test)
        if validation
        else (splits.train, splits.validation, splits.test)
    )
    assert sum(map(len, parts)) == 52


def test_anomalies_that_are_in_no_part_are_counted(tmp_path) -> None:
    for part, count in (("train", 20), ("test", 5)):
        write_pictures(tmp_path / part / "good", count)
        write_pictures(tmp_path / part / "bad", 10)
    splits = load_dataset(DatasetConfig(name="ImageFolder", root=str(tmp_path), normal=["good"]))
    (note,) = [note for note in splits.notes if note.startswith("left out, as they are not normal")]
    training, validation = map(int, re.findall(r"\d+", note))
    assert training + validation == 10
    assert len(splits.train) + len(splits.validation) == 20


def test_a_folder_without_classes_has_no_normal_one(tmp_path) -> None:
    write_pictures(tmp_path, 20)
    config = DatasetConfig(name="ImageFolder", root=str(tmp_path), normal=["good"])
    with pytest.raises(UserError, match=r"\['good'\], and there are no folders of classes"):
        load_dataset(config)


def test_errors_repeat_why_nothing_was_read(tmp_path) -> None:
    write_pictures(tmp_path, 6)
    config = DatasetConfig(name="ImageFolder", root=str(tmp_path), tile=64)
    with pytest.raises(UserError, match=r"(?s)none of the training.*12x12 positions are less than"):
        load_dataset(config)


def test_strictness_names_files_of_all_kinds(tmp_path) -> None:
    write_pictures(tmp_path, 6)
    (tmp_path / "link.png").symlink_to("nowhere")
    (tmp_path / "text.png").write_text("no picture")
    config = DatasetConfig(name="ImageFolder", root=str(tmp_path), strict=True)
    with pytest.raises(UserError, match=r"(?s)2 images cannot be read.*link.png.*text.png"):
        load_dataset(config)


@pytest.mark.parametrize("root", ["", None, 5])
def test_a_root_is_a_name(root) -> None:
    with pytest.raises(UserError, match=r"dataset.root: .* is not a folder or file"):
        DatasetConfig(name="ImageFolder", root=root)
