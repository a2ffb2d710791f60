"""Every dataset of torchvision that has a file in configs: small ones in their true formats."""

from __future__ import annotations

import bz2
import gzip
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from torchvision import datasets

from convae.data.datasets import load_dataset
from convae.data.splits import Splits
from tests.helpers import CONFIGS, compose, pixels_of


@pytest.fixture(autouse=True)
def _whatever_they_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take files that exist for whole ones, as torchvision's own tests do."""
    for module in (datasets.cifar, datasets.mnist, datasets.stl10, datasets.svhn, datasets.utils):
        monkeypatch.setattr(module, "check_integrity", lambda path, md5=None: Path(path).is_file())


def load(option: str, root: Path, *overrides: str) -> Splits:
    config = compose(f"dataset={option}", f"dataset.root={root}", *overrides)
    return load_dataset(config.dataset)


def asymmetric(rng: np.random.Generator, count: int, *shape: int) -> np.ndarray:
    """Images that are other ones when they are mirrored, turned, or their colours exchanged."""
    images = rng.integers(0, 100, (count, *shape), dtype=np.uint8)
    images[..., 0, :] += 150  # the first row is bright
    if len(shape) == 3:
        images[:, 0] += 5  # and red brighter than the others
    return images


def check(data: Splits, train: np.ndarray, test: np.ndarray, labels: np.ndarray) -> None:
    """All images are there, each as it was written; both halves; and the test images' classes."""
    found = np.concatenate([pixels_of(data.train), pixels_of(data.validation)])
    order = np.lexsort(found.reshape(len(found), -1).T)
    expected = np.lexsort(train.reshape(len(train), -1).T)
    np.testing.assert_array_equal(found[order], train[expected])
    np.testing.assert_array_equal(pixels_of(data.test), test)
    assert data.test.labels is not None
    assert data.test.labels.tolist() == labels.tolist()


def idx(path: Path, array: np.ndarray, packed: bool = False) -> None:
    """Write an array as LeCun's files have it: big-endian, its type and shape first."""
    kind = {"uint8": 0x08, "int32": 0x0C}[array.dtype.name]
    header = struct.pack(">HBB", 0, kind, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = header + array.astype(array.dtype.newbyteorder(">")).tobytes()
    path.with_name(f"{path.name}{'.gz' if packed else ''}").write_bytes(
        gzip.compress(content) if packed else content
    )


@pytest.mark.parametrize("option", ["mnist", "fashionmnist", "kmnist"])
@pytest.mark.parametrize("packed", [True, False])
def test_idx_files(tmp_path, rng, option: str, packed: bool) -> None:
    train, test = (asymmetric(rng, count, 28, 28) for count in (30, 10))
    labels = np.arange(10, dtype=np.uint8)
    folder = tmp_path / compose(f"dataset={option}").dataset.name / "raw"
    for half, images in (("train", train), ("t10k", test)):
        idx(folder / f"{half}-images-idx3-ubyte", images, packed)
        idx(folder / f"{half}-labels-idx1-ubyte", np.resize(labels, len(images)), packed)
    data = load(option, tmp_path)
    check(data, train[:, None], test[:, None], labels)
    assert len(data.classes) == 10


def test_emnist_is_turned_upright(tmp_path, rng) -> None:
    """Its files have rows and columns exchanged."""
    train, test = (asymmetric(rng, count, 28, 28) for count in (30, 10))
    labels = np.arange(37, 47, dtype=np.uint8)
    folder = tmp_path / "EMNIST" / "raw"
    for half, images in (("train", train), ("test", test)):
        idx(folder / f"emnist-balanced-{half}-images-idx3-ubyte", images.swapaxes(1, 2))
        idx(folder / f"emnist-balanced-{half}-labels-idx1-ubyte", np.resize(labels, len(images)))
    data = load("emnist", tmp_path)
    check(data, train[:, None], test[:, None], labels)
    assert [data.classes[n] for n in (36, 37)] == ["a", "b"]


def test_qmnists_labels_are_the_first_of_eight_numbers(tmp_path, rng) -> None:
    train, test = (asymmetric(rng, count, 28, 28) for count in (30, 10))
    labels = np.zeros((30, 8), np.int32)
    labels[:, 0], labels[:, 1:] = np.arange(30) % 10, 77
    for half, images in (("train", train), ("test", test)):
        folder = tmp_path / "QMNIST" / "raw"
        idx(folder / f"qmnist-{half}-images-idx3-ubyte", images)
        idx(folder / f"qmnist-{half}-labels-idx2-int", labels[: len(images)])
    check(load("qmnist", tmp_path), train[:, None], test[:, None], labels[:10, 0])
    normal = load("qmnist", tmp_path, "dataset.normal=[3]", "dataset.holdout=0.4")
    assert normal.anomalous is not None
    assert (~normal.anomalous).sum() == 1


def test_usps_in_libsvms_format(tmp_path, rng) -> None:
    """Lines of a class from 1 and of values from -1 to 1, by their numbers."""
    train, test = (asymmetric(rng, count, 16, 16) for count in (30, 10))
    labels = np.arange(10)
    for name, images in (("usps.bz2", train), ("usps.t.bz2", test)):
        lines = []
        for n, image in enumerate(images):
            values = (image.ravel() + 0.5) / 255 * 2 - 1
            pairs = " ".join(f"{k}:{value:.6f}" for k, value in enumerate(values, start=1))
            lines.append(f"{n % 10 + 1} {pairs} \n")
        (tmp_path / name).write_bytes(bz2.compress("".join(lines).encode()))
    check(load("usps", tmp_path), train[:, None], test[:, None], labels)


@pytest.mark.parametrize(
    ("option", "folder", "train_files", "test_file", "meta", "key"),
    [
        ("cifar10", "cifar-10-batches-py", [f"data_batch_{n}" for n in range(1, 6)], "test_batch",
         ("batches.meta", "label_names"), "labels"),
        ("cifar100", "cifar-100-python", ["train"], "test", ("meta", "fine_label_names"),
         "fine_labels"),
    ],
)  # fmt: skip
def test_cifars_pickled_batches(
    tmp_path, rng, option: str, folder: str, train_files, test_file: str, meta, key: str
) -> None:
    train, test = (asymmetric(rng, count, 3, 32, 32) for count in (30, 10))
    place = tmp_path / folder
    place.mkdir()

    def write(name: str, content: Any) -> None:
        (place / name).write_bytes(pickle.dumps(content, protocol=2))

    for name, part in zip(train_files, np.array_split(train, len(train_files)), strict=True):
        write(name, {"data": part.reshape(len(part), -1), key: [1] * len(part)})
    write(test_file, {"data": test.reshape(10, -1), key: list(range(10))})
    write(meta[0], {meta[1]: [f"class {n}" for n in range(10)]})
    data = load(option, tmp_path)
    check(data, train, test, np.arange(10))
    assert data.classes[3] == "class 3"


def test_svhn_in_matlabs_format(tmp_path, rng) -> None:
    """Images last, and 10 for the digit 0."""
    train, test = (asymmetric(rng, count, 3, 32, 32) for count in (30, 10))
    for half, images in (("train", train), ("test", test)):
        labels = np.resize(np.arange(1, 11, dtype=np.uint8), (len(images), 1))
        content = {"X": images.transpose(2, 3, 1, 0), "y": labels}
        scipy.io.savemat(tmp_path / f"{half}_32x32.mat", content)
    check(load("svhn", tmp_path), train, test, np.array([*range(1, 10), 0]))


def test_stl10s_columns_come_first(tmp_path, rng) -> None:
    """In binary files, with unlabelled images beside the others."""
    train, test, more = (asymmetric(rng, count, 3, 96, 96) for count in (20, 10, 10))
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    labels = np.arange(1, 11, dtype=np.uint8)
    for name, images in (("train_X", train), ("unlabeled_X", more), ("test_X", test)):
        (folder / f"{name}.bin").write_bytes(images.swapaxes(2, 3).tobytes())
    (folder / "train_y.bin").write_bytes(np.resize(labels, 20).tobytes())
    (folder / "test_y.bin").write_bytes(labels.tobytes())
    (folder / "class_names.txt").write_text("\n".join(f"class {n}" for n in range(10)))
    data = load("stl10", tmp_path)
    check(data, np.concatenate([train, more]), test, np.arange(10))
    assert data.classes[4] == "class 4"
    assert data.train.labels is not None
    assert data.validation.labels is not None
    every = [*data.train.labels.tolist(), *data.validation.labels.tolist()]
    assert every.count(-1) == 10


def test_no_configuration_is_forgotten() -> None:
    """All files in configs/dataset that name a class of torchvision are tried above."""
    named = {
        file.stem
        for file in (CONFIGS / "dataset").glob("*.yaml")
        if file.stem not in ("torchvision", "custom", "arrays", "imagefolder")
        and hasattr(datasets, compose(f"dataset={file.stem}").dataset.name)
    }
    tried = {"mnist", "fashionmnist", "kmnist", "emnist", "qmnist", "usps", "cifar10", "cifar100"}
    assert named == tried | {"svhn", "stl10"}
