"""Files of torchvision's datasets that are not whole, and what a failed download leaves."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import numpy as np
import pytest

from convae.configuration import DatasetConfig
from convae.data.datasets import load_dataset
from convae.data.image_arguments import ImageArguments
from convae.data.sources import named
from convae.errors import UserError
from tests.helpers import write_pictures


@pytest.fixture(autouse=True)
def offline(monkeypatch) -> None:
    def refuse(*args: object, **how: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def write_mnist(root: Path) -> Path:
    """Files as MNIST's, of ten images for each half."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for half in ("train", "t10k"):
        images = rng.integers(0, 256, (10, 28, 28), np.uint8)
        labels = np.arange(10, dtype=np.uint8)
        for kind, magic, array in (("images-idx3", 2051, images), ("labels-idx1", 2049, labels)):
            header = np.array([magic, *array.shape], ">i4").tobytes()
            (raw / f"{half}-{kind}-ubyte").write_bytes(header + array.tobytes())
    return raw / "train-images-idx3-ubyte"


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"<html>404</html>" * 4,
        lambda content: content[:1000],
        lambda content: content[:7],
    ],
    ids=["empty", "html", "cut", "header cut"],
)
def test_damaged_files_are_named_with_the_remedy(tmp_path, damage) -> None:
    file = write_mnist(tmp_path)
    config = named("mnist", str(tmp_path))
    assert len(load_dataset(config).test) == 10
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=r"MNIST's files under .* damaged .*remove them"):
        load_dataset(config)


@pytest.mark.parametrize("exists", [True, False])
def test_a_wrong_root_leaves_nothing_behind(tmp_path, exists: bool) -> None:
    root = tmp_path / "wrong"
    if exists:
        root.mkdir()
        (root / "mine").mkdir()
    with pytest.raises(FileNotFoundError, match="MNIST was not found under"):
        load_dataset(named("mnist", str(root)))
    assert sorted(path.name for path in tmp_path.rglob("*")) == (
        ["mine", "wrong"] if exists else []
    )


def test_by_products_of_systems_are_no_pictures(tmp_path) -> None:
    for folder in ("cats", "cats/.ipynb_checkpoints", "__MACOSX/cats", "cats/@eaDir"):
        write_pictures(tmp_path / folder, 12)
    first = next((tmp_path / "cats").glob("**/*.png"))
    (tmp_path / "cats" / f"._{first.name}").write_bytes(b"not a picture")
    config = DatasetConfig(name="ImageFolder", root=str(tmp_path), workers=0)
    data = load_dataset(config)
    assert len(data.train) + len(data.validation) + len(data.test) == 12
    assert ImageArguments([str(tmp_path)], data.how, "data").total() == 12
