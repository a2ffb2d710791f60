"""Datasets: built in, torchvision's, and folders of pictures."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from convae.configuration import DatasetConfig
from convae.data.datasets import load_dataset
from convae.data.splits import InMemory, Streamed, to_floats, to_pixels


def pixels(split) -> np.ndarray:
    return np.concatenate(list(split.batches(64)))


def test_digits_are_scikit_learns() -> None:
    splits = load_dataset(DatasetConfig(name="digits"))
    parts = [pixels(split) for split in (splits.train, splits.validation, splits.test)]
    assert [len(part) for part in parts] == [1455, 162, 180]
    everything = np.concatenate(parts)[:, 0] * (16 / 255)
    expected = load_digits().images
    np.testing.assert_allclose(
        np.sort(everything.reshape(1797, -1), axis=0),
        np.sort(expected.reshape(1797, -1), axis=0),
        atol=0.04,
    )


def test_photos_are_patches_and_no_pixel_is_in_two_splits() -> None:
    splits = load_dataset(DatasetConfig(name="photos"))
    assert splits.train.shape == splits.test.shape == (3, 32, 32)
    photo = load_sample_images().images[0].transpose(2, 0, 1)
    train, validation, test = (pixels(s) for s in (splits.train, splits.validation, splits.test))
    assert (train[1] == photo[:, :32, 8:40]).all()
    assert (validation[0] == photo[:, :32, 384:416]).all()
    assert (test[0] == photo[:, :32, 512:544]).all()
    edges = [photo[:, :32, end - 32 : end] for end in (384, 512)]
    assert not any((validation == edges[0]).all(axis=(1, 2, 3)))
    assert not any((test == edges[1]).all(axis=(1, 2, 3)))


def test_splits_depend_on_the_seed() -> None:
    first, same, other = (
        pixels(load_dataset(DatasetConfig(name="digits"), seed).train) for seed in (0, 0, 1)
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
        for image, label in zip(pixels(split), split.labels, strict=True):
            assert known[image.tobytes()] == label


def test_normal_classes_are_all_that_is_trained_on() -> None:
    splits = load_dataset(DatasetConfig(name="digits", normal=[3, 8]))
    for split in (splits.train, splits.validation):
        assert set(split.labels) == {3, 8}
    assert set(splits.test.labels) == set(range(10))
    assert (splits.anomalous == ~np.isin(splits.test.labels, [3, 8])).all()


@pytest.mark.parametrize("normal", [[], [10], [3, 11]])
def test_normal_classes_that_are_not_there_are_refused(normal: list[int]) -> None:
    with pytest.raises(ValueError, match=r"dataset.normal: .* is not a list of classes among 0, 1"):
        load_dataset(DatasetConfig(name="digits", normal=normal))


def test_normal_folders_by_name(tmp_path) -> None:
    """As defect datasets come: only good pictures to train on, good and bad ones to test."""
    write_pictures(tmp_path / "train" / "good", 10)
    for name in ("bent", "good", "scratched"):
        write_pictures(tmp_path / "test" / name, 3)
    config = DatasetConfig(name="ImageFolder", root=str(tmp_path), normal=["good"])
    splits = load_dataset(config)
    assert len(splits.train) + len(splits.validation) == 10
    assert splits.anomalous.tolist() == [True] * 3 + [False] * 3 + [True] * 3


@pytest.mark.parametrize(
    ("normal", "says"),
    [
        (list(range(10)), "test images are all normal or all anomalous"),
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
    with pytest.raises(ValueError, match=r"dataset.normal: \['few'\] leaves . training and 0"):
        load_dataset(config)


def test_halves_that_are_the_same_images_are_refused(real_images) -> None:
    config = DatasetConfig(name="MNIST", root=str(real_images), train={}, test={})
    with pytest.raises(ValueError, match=r"dataset.train, dataset.test: both select the same"):
        load_dataset(config)


def test_folders_beside_train_are_not_passed_over(tmp_path) -> None:
    for name in ("train", "bus", "car"):
        write_pictures(tmp_path / name, 10)
    with pytest.raises(ValueError, match=r"dataset.root: .* it holds bus, car"):
        load_dataset(DatasetConfig(name="ImageFolder", root=str(tmp_path)))


def test_halves_of_different_shapes_are_refused(tmp_path) -> None:
    write_pictures(tmp_path / "train", 20, side=12)
    write_pictures(tmp_path / "test", 4, side=8)
    with pytest.raises(ValueError, match=r"test images \(3, 8, 8\); set dataset.image_size"):
        load_dataset(DatasetConfig(name="ImageFolder", root=str(tmp_path)))


def test_one_coloured_picture_makes_the_dataset_coloured(tmp_path) -> None:
    write_pictures(tmp_path, 12, mode="L")
    Image.new("RGB", (12, 12), (9, 0, 0)).save(tmp_path / "zz.png")
    assert load_dataset(DatasetConfig(name="ImageFolder", root=str(tmp_path))).train.shape[0] == 3


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_pictures_of_32_bits_are_refused(tmp_path, kind: type) -> None:
    Image.fromarray(np.ones((4, 4), kind)).save(tmp_path / "deep.tif")
    with Image.open(tmp_path / "deep.tif") as image, pytest.raises(ValueError, match="32 bits"):
        to_pixels(image, 1)


def test_photographs_have_no_classes() -> None:
    with pytest.raises(ValueError, match=r"dataset.normal: this dataset has no classes"):
        load_dataset(DatasetConfig(name="photos", normal=[0]))


def test_folders_are_classes(tmp_path) -> None:
    for name in ("bad", "good"):
        write_pictures(tmp_path / name / "deeper", 12)
    config = DatasetConfig(name="ImageFolder", root=str(tmp_path), holdout=0.2, memory_mb=0)
    splits = load_dataset(config)
    assert isinstance(splits.train, Streamed)
    labels = np.concatenate([s.labels for s in (splits.train, splits.validation, splits.test)])
    assert sorted(labels) == [0] * 12 + [1] * 12
    position = int(splits.test.indices[0])
    path, label = splits.test.dataset.samples[position]
    assert ("bad", "good")[label] in path
    assert splits.test.labels[0] == label


def test_batches_hold_every_image_once(rng) -> None:
    split = InMemory(np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1))
    batches = list(split.batches(4, rng))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    order = np.concatenate(batches).ravel().tolist()
    assert order != sorted(order)
    assert sorted(order) == list(range(10))


def test_to_floats_scales_and_keeps_examples_innermost(rng) -> None:
    batch = rng.integers(0, 256, (5, 3, 4, 6), dtype=np.uint8)
    floats = to_floats(batch, np, "float64")
    np.testing.assert_allclose(floats, batch / 255, rtol=1e-15)
    assert floats.transpose(2, 3, 1, 0).flags.c_contiguous


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_any_mode_become_pixels(mode: str, channels: int) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.full((6, 9), 200 * 257, np.uint16))
    else:
        image = Image.new("RGB", (9, 6), (200, 200, 200)).convert(mode)
    array = to_pixels(image, channels)
    assert array.shape == (channels, 6, 9)
    assert array.dtype == np.uint8
    assert abs(array.astype(int).mean() - 200) <= (255 if mode == "1" else 8)
    assert to_pixels(image, channels, image_size=4).shape == (channels, 4, 4)
    assert to_pixels(image, channels, transposed=True).shape == (channels, 9, 6)


def write_mnist(root: Path, images: np.ndarray) -> None:
    """Write a small MNIST in its own format: both halves hold the same images."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for half in ("train", "t10k"):
        header = struct.pack(">IIII", 0x803, *images.shape)
        (folder / f"{half}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = struct.pack(">II", 0x801, len(images)) + bytes(len(images))
        (folder / f"{half}-labels-idx1-ubyte").write_bytes(labels)


MNIST = {"name": "MNIST", "train": {"train": True}, "test": {"train": False}}


def test_torchvisions_files_are_read(tmp_path, rng) -> None:
    images = rng.integers(0, 256, (40, 28, 28), dtype=np.uint8)
    write_mnist(tmp_path, images)
    splits = load_dataset(DatasetConfig(**MNIST, root=str(tmp_path)))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (36, 4, 40)
    assert (pixels(splits.test)[:, 0] == images).all()
    turned = load_dataset(DatasetConfig(**MNIST, root=str(tmp_path), transposed=True))
    assert (pixels(turned.test)[:, 0] == images.swapaxes(1, 2)).all()
    resized = load_dataset(DatasetConfig(**MNIST, root=str(tmp_path), image_size=14, channels=3))
    assert resized.test.shape == (3, 14, 14)
    limited = load_dataset(DatasetConfig(**MNIST, root=str(tmp_path), limit=7))
    assert (len(limited.train), len(limited.test)) == (7, 40)


def test_real_mnist(real_images) -> None:
    splits = load_dataset(DatasetConfig(**MNIST, root=str(real_images)))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (54000, 6000, 10000)
    assert splits.train.shape == (1, 28, 28)


def test_a_dataset_that_cannot_be_had_says_what_to_do(tmp_path, monkeypatch) -> None:
    import urllib.request

    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    with pytest.raises(FileNotFoundError) as error:
        load_dataset(DatasetConfig(**MNIST, root=str(tmp_path)))
    for part in ("MNIST", repr(str(tmp_path)), "dataset.root=", "dataset=digits needs no download"):
        assert part in str(error.value)


def write_pictures(folder: Path, count: int, side: int = 12, mode: str = "RGB") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        Image.new(mode, (side, side), index * 5).save(folder / f"{index:03}.png")


@pytest.mark.parametrize("memory_mb", [100, 0])
def test_folders_of_pictures(tmp_path, memory_mb: int) -> None:
    write_pictures(tmp_path / "b" / "deeper", 10, mode="L")
    write_pictures(tmp_path / "a", 10, mode="L")
    config = DatasetConfig("ImageFolder", str(tmp_path), memory_mb=memory_mb, workers=1)
    splits = load_dataset(config)
    assert isinstance(splits.train, InMemory if memory_mb else Streamed)
    parts = [splits.train, splits.validation, splits.test]
    assert [len(part) for part in parts] == [16, 2, 2]
    levels = np.concatenate([pixels(part)[:, 0, 0, 0] for part in parts])
    assert sorted(levels.tolist()) == sorted(2 * [i * 5 for i in range(10)])
    shuffled = np.concatenate(list(splits.train.batches(5, np.random.default_rng(0))))
    in_order = pixels(splits.train)
    assert sorted(shuffled[:, 0, 0, 0].tolist()) == sorted(in_order[:, 0, 0, 0].tolist())


def test_folders_with_halves_keep_them(tmp_path) -> None:
    for half, count in (("train", 10), ("val", 3), ("test", 4)):
        write_pictures(tmp_path / half / "class", count)
    splits = load_dataset(DatasetConfig("ImageFolder", str(tmp_path), workers=0))
    assert [len(s) for s in (splits.train, splits.validation, splits.test)] == [10, 3, 4]
    assert splits.train.shape == (3, 12, 12)


@pytest.mark.parametrize("memory_mb", [100, 0])
@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_picture_is_named(tmp_path, memory_mb: int, workers: int) -> None:
    write_pictures(tmp_path, 10)
    damaged = tmp_path / "005.png"
    damaged.write_bytes(damaged.read_bytes()[:40])
    config = DatasetConfig("ImageFolder", str(tmp_path), memory_mb=memory_mb, workers=workers)

    def read_all() -> None:
        splits = load_dataset(config)
        for split in (splits.train, splits.validation, splits.test):
            pixels(split)

    with pytest.raises(ValueError, match=r"image .*005\.png cannot be read .*; repair or remove"):
        read_all()


@pytest.mark.parametrize("memory_mb", [100, 0])
def test_pictures_of_different_sizes_need_an_image_size(tmp_path, memory_mb: int) -> None:
    write_pictures(tmp_path / "a", 10, side=12)
    write_pictures(tmp_path / "b", 10, side=16)
    config = DatasetConfig("ImageFolder", str(tmp_path), memory_mb=memory_mb, workers=0)
    with pytest.raises(ValueError, match=r"image_size: images differ in size.*image_size=64"):
        pixels(load_dataset(config).train)
    config.image_size = 8
    assert load_dataset(config).train.shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("config", "error", "says"),
    [
        (DatasetConfig("nosuch"), ValueError, "dataset.name: 'nosuch' is unknown; use digits"),
        (DatasetConfig("digits", holdout=0.9), ValueError, "dataset.holdout: 0.9"),
        (DatasetConfig("digits", holdout=0.0001), ValueError, "too few to set"),
        (DatasetConfig("digits", channels=3), ValueError, "dataset.channels: 'digits' comes as"),
        (DatasetConfig("MNIST", channels=2), ValueError, "dataset.channels: 2"),
        (DatasetConfig("MNIST", limit=0), ValueError, "dataset.limit: 0"),
        (DatasetConfig("MNIST", train={"x": 1}), ValueError, "MNIST refuses its arguments"),
        (DatasetConfig("ImageFolder", "/no/such"), FileNotFoundError, "no folder '/no/such'"),
        (DatasetConfig("ImageFolder", "docs/empty"), FileNotFoundError, "dataset.root: there is"),
    ],
)
def test_bad_configurations_are_refused_by_name(config, error, says: str) -> None:
    with pytest.raises(error, match=says):
        load_dataset(config)


def test_a_folder_without_pictures_is_refused(tmp_path) -> None:
    (tmp_path / "note.txt").write_text("no picture")
    with pytest.raises(FileNotFoundError, match=r"no pictures under .*png"):
        load_dataset(DatasetConfig("ImageFolder", str(tmp_path)))
