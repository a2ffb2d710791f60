"""Where images come from: scikit-learn, torchvision's files, and folders of pictures."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from convae.configuration import DatasetConfig
from convae.data.datasets import load_dataset
from convae.data.sources import named
from convae.data.splits import InMemory, Streamed, shuffled
from tests.helpers import pixels_of, write_pictures


def test_photos_are_patches_and_no_pixel_is_in_two_splits() -> None:
    splits = load_dataset(DatasetConfig(name="photos"))
    assert splits.train.shape == splits.test.shape == (3, 32, 32)
    photo = load_sample_images().images[0].transpose(2, 0, 1)
    train, validation, test = (pixels_of(s) for s in (splits.train, splits.validation, splits.test))
    assert (train[1] == photo[:, :32, 8:40]).all()
    assert (validation[0] == photo[:, :32, 384:416]).all()
    assert (test[0] == photo[:, :32, 512:544]).all()
    edges = [photo[:, :32, end - 32 : end] for end in (384, 512)]
    assert not any((validation == edges[0]).all(axis=(1, 2, 3)))
    assert not any((test == edges[1]).all(axis=(1, 2, 3)))


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
    assert (pixels_of(splits.test)[:, 0] == images).all()
    turned = load_dataset(DatasetConfig(**MNIST, root=str(tmp_path), transposed=True))
    assert (pixels_of(turned.test)[:, 0] == images.swapaxes(1, 2)).all()
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


def test_halves_that_are_the_same_images_are_refused(real_images) -> None:
    config = DatasetConfig(name="MNIST", root=str(real_images), train={}, test={})
    with pytest.raises(ValueError, match=r"dataset.train, dataset.test: both select the same"):
        load_dataset(config)


@pytest.mark.parametrize("memory_mb", [100, 0])
def test_folders_of_pictures(tmp_path, memory_mb: int) -> None:
    write_pictures(tmp_path / "b" / "deeper", 10, mode="L")
    write_pictures(tmp_path / "a", 10, mode="L")
    config = DatasetConfig("ImageFolder", str(tmp_path), memory_mb=memory_mb, workers=1)
    splits = load_dataset(config)
    assert isinstance(splits.train, InMemory if memory_mb else Streamed)
    parts = [splits.train, splits.validation, splits.test]
    assert [len(part) for part in parts] == [16, 2, 2]
    levels = np.concatenate([pixels_of(part)[:, 0, 0, 0] for part in parts])
    assert sorted(levels.tolist()) == sorted(2 * [i * 5 for i in range(10)])
    order = shuffled(splits.train, np.random.default_rng(0))
    mixed = np.concatenate(list(splits.train.batches(5, order)))
    in_order = pixels_of(splits.train)
    assert sorted(mixed[:, 0, 0, 0].tolist()) == sorted(in_order[:, 0, 0, 0].tolist())


def test_folders_with_halves_keep_them(tmp_path) -> None:
    for half, count in (("train", 10), ("val", 3), ("test", 4)):
        write_pictures(tmp_path / half / "class", count)
    splits = load_dataset(DatasetConfig("ImageFolder", str(tmp_path), workers=0))
    assert [len(s) for s in (splits.train, splits.validation, splits.test)] == [10, 3, 4]
    assert splits.train.shape == (3, 12, 12)


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


def test_folders_beside_train_are_not_passed_over(tmp_path) -> None:
    for name in ("train", "bus", "car"):
        write_pictures(tmp_path / name, 10)
    with pytest.raises(ValueError, match=r"dataset.root: .* it holds bus, car"):
        load_dataset(DatasetConfig(name="ImageFolder", root=str(tmp_path)))


def test_a_folder_without_pictures_is_refused(tmp_path) -> None:
    (tmp_path / "note.txt").write_text("no picture")
    with pytest.raises(
        FileNotFoundError, match=r"no pictures .*png .*it holds files ending in .txt"
    ):
        load_dataset(DatasetConfig("ImageFolder", str(tmp_path)))


def test_one_coloured_picture_makes_the_dataset_coloured(tmp_path) -> None:
    write_pictures(tmp_path, 12, mode="L")
    Image.new("RGB", (12, 12), (9, 0, 0)).save(tmp_path / "zz.png")
    assert load_dataset(DatasetConfig(name="ImageFolder", root=str(tmp_path))).train.shape[0] == 3


@pytest.mark.parametrize("memory_mb", [100, 0])
@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_picture_is_named(tmp_path, memory_mb: int, workers: int) -> None:
    write_pictures(tmp_path, 10)
    damaged = tmp_path / "005.png"
    damaged.write_bytes(damaged.read_bytes()[:40])
    how = {"memory_mb": memory_mb, "workers": workers, "strict": True}
    config = DatasetConfig("ImageFolder", str(tmp_path), **how)

    def read_all() -> None:
        splits = load_dataset(config)
        for split in (splits.train, splits.validation, splits.test):
            pixels_of(split)

    with pytest.raises(
        ValueError, match=r"(?s)1 image cannot be read:.*005\.png: .*dataset.strict"
    ):
        read_all()


@pytest.mark.parametrize("memory_mb", [100, 0])
def test_pictures_of_different_sizes_need_an_image_size(tmp_path, memory_mb: int) -> None:
    write_pictures(tmp_path / "a", 10, side=12)
    write_pictures(tmp_path / "b", 10, side=16)
    config = DatasetConfig("ImageFolder", str(tmp_path), memory_mb=memory_mb, workers=0)
    with pytest.raises(ValueError, match=r"image_size: images differ in size.*image_size=64"):
        pixels_of(load_dataset(config).train)
    config.image_size = 8
    assert load_dataset(config).train.shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("name", "train", "test"),
    [
        ("mnist", {"train": True}, {"train": False}),
        ("SVHN", {"split": "train"}, {"split": "test"}),
        ("qmnist", {"train": True}, {"train": False}),
        ("emnist", {"split": "balanced", "train": True}, {"split": "balanced", "train": False}),
    ],
)
def test_names_alone_select_both_halves(name: str, train: dict, test: dict) -> None:
    config = named(name, "somewhere")
    assert config.name.lower() == name.lower()
    assert (config.root, config.train, config.test) == ("somewhere", train, test)
    assert config.transposed == (name == "emnist")


@pytest.mark.parametrize("name", ["nosuch", "imagefolder", "FakeData"])
def test_names_that_select_nothing_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}|FakeData"):
        named(name)
