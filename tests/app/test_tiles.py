"""A run on tiles of pictures of any size, and the commands on whole pictures."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import convae
from convae.app import cli
from convae.data.pictures import Preprocessing
from convae.report.anomaly import Detector
from convae.report.whole import Whole
from tests.helpers import FEW_PICTURES, run_train


def use(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [*map(str, arguments)], prog_name="convae")


def write(path: Path, size: tuple[int, int], seed: int, spot: bool = False) -> None:
    """A grey wave; with a spot of noise, and a mask, if asked for."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    rng = np.random.default_rng(seed)
    pixels = 128 + 60 * np.sin(rows / 2 + rng.random()) * np.sin(columns / 3 + rng.random())
    if spot:
        pixels[5:11, 8:14] = rng.uniform(0, 255, (6, 6))
        mask = np.zeros(size, np.uint8)
        mask[5:11, 8:14] = 255
        place = path.parents[2] / "ground_truth" / path.parent.name
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(place / f"{path.stem}_mask.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """Run, pictures, and what the run printed."""
    folder = tmp_path_factory.mktemp("tiled")
    root = folder / "pictures"
    for n in range(20):
        write(root / "train" / "good" / f"{n}.png", (40 + n, 50), n)
    for n in range(5):
        write(root / "test" / "good" / f"{n}.png", (40, 50 + n), 100 + n)
        write(root / "test" / "spot" / f"{n}.png", (40, 50 + n), 200 + n, spot=True)
    how = ("dataset=imagefolder", f"dataset.root={root}", "dataset.normal=[good]", "model=spatial")
    tiles = ("dataset.tile=16", "dataset.overlap=6", *FEW_PICTURES)
    done = run_train(*how, *tiles, f"hydra.run.dir={folder / 'run'}")
    assert done.returncode == 0, done.stderr
    return folder / "run", root, done.stdout


def test_the_run_judges_pictures(tiled) -> None:
    run, _, said = tiled
    figures = json.loads((run / "summary.json").read_text())
    assert "test tiles" in said
    assert figures["auroc"] > 0.9
    assert figures["pixel_auroc"] > 0.9
    assert 0.5 < figures["pro"] <= 1
    model = convae.load(run)
    assert model.input_shape == (1, 16, 16)
    assert len(model.extras["validation.combined"]) == 2  # of as many pictures


def test_whole_pictures_are_scored_and_mapped(tiled, tmp_path) -> None:
    run, root, _ = tiled
    done = use("score", run, root / "test", "-o", tmp_path / "s.csv", "--maps", tmp_path / "maps")
    assert done.exit_code == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "s.csv").read_text().splitlines()))
    assert len(rows) == 10
    detector = Detector.of_model(convae.load(run))
    how = Preprocessing.of_model(detector.model)
    assert how.tiling is not None
    assert how.size is None
    whole = Whole(detector, how.tiling, "combined", 64)
    for row in rows:
        with Image.open(row["image"]) as picture:
            pixels, _ = how(picture)
        assert float(row["combined"]) == pytest.approx(whole.value(pixels), abs=1e-3)
    spots = [float(row["combined"]) for row in rows if "spot" in row["image"]]
    others = [float(row["combined"]) for row in rows if "good" in row["image"]]
    assert np.median(spots) > np.max(others)
    with (
        Image.open(tmp_path / "maps" / "spot" / "2.png") as figure,
        Image.open(root / "test" / "spot" / "2.png") as picture,
    ):
        original = np.asarray(picture).repeat(2, axis=0).repeat(2, axis=1)
        panel = np.asarray(figure)[: len(original), : original.shape[1]]
    assert (panel == original[:, :, None]).all()


def test_whole_pictures_are_reconstructed_in_their_own_size(tiled, tmp_path) -> None:
    run, root, _ = tiled
    write(tmp_path / "in" / "small.png", (9, 7), 1)
    done = use("reconstruct", run, root / "test" / "good", tmp_path / "in", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    found = sorted((tmp_path / "out").rglob("*.png"))
    assert len(found) == 6
    for path in found:
        source = tmp_path / "in" / path.name
        source = source if source.exists() else root / "test" / "good" / path.name
        with Image.open(path) as clean, Image.open(source) as original:
            assert clean.size == original.size
            error = np.asarray(clean.convert("L"), float) - np.asarray(original, float)
        assert np.abs(error).mean() < 25


def test_codes_are_those_of_tiles(tiled, tmp_path) -> None:
    run, root, _ = tiled
    picture = root / "test" / "good" / "3.png"
    done = use("encode", run, picture, "-o", tmp_path / "codes.npy", "--batch-size", 3)
    assert done.exit_code == 0, done.stderr
    model = convae.load(run)
    how = Preprocessing.of_model(model)
    assert how.tiling is not None
    with Image.open(picture) as image:
        tiles = how.tiling.cut(how(image)[0])
    expected = model.encode(tiles.astype("float32") / np.float32(255))
    np.testing.assert_allclose(np.load(tmp_path / "codes.npy"), expected, atol=1e-5)
    names = (tmp_path / "codes.images.txt").read_text().splitlines()
    assert names[0] == f"{picture}@0,0"
    assert names[-1] == f"{picture}@24,37"


def test_the_page_shows_tiles(tiled, tmp_path) -> None:
    done = use("report", tiled[0], "-o", tmp_path / "page.html")
    assert done.exit_code == 0, done.stderr
    text = (tmp_path / "page.html").read_text()
    assert "Most unusual test tiles" in text
    assert "5 of 10 test images are anomalous" in text
    assert text.count("(spot)") >= 6


def test_read_image_gives_a_whole_picture(tiled) -> None:
    run, root, _ = tiled
    x = convae.read_image(root / "test" / "good" / "3.png", convae.load(run))
    assert x.shape == (1, 1, 40, 53)
