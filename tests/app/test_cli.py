"""The command line on a model trained by `python train.py`, as a user types it."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from safetensors import safe_open

import convae
from convae.app import cli
from convae.data.datasets import load_dataset
from convae.data.sources import named
from convae.engine import missing_gpu
from convae.errors import UserError
from convae.report.anomaly import Detector
from convae.report.scores import SCORES
from tests.helpers import SHORT


def use(*arguments: object, given: str | None = None) -> Result:
    """A command in this process."""
    words = [*map(str, arguments)]
    return CliRunner().invoke(cli.main, words, input=given, prog_name="convae")


@pytest.fixture(scope="module")
def trained(finished) -> Path:
    return finished[0]


@pytest.fixture(scope="module")
def test_images() -> np.ndarray:
    return next(load_dataset(named("digits")).test.batches(1000)).astype("float32") / 255


def parameters_of(folder: Path) -> str:
    count = sum(array.size for array in convae.load(folder).parameters.values())
    return f"{count:,} parameters"


def test_codes_of_a_dataset(trained, test_images, tmp_path) -> None:
    for name in ("codes.npy", "codes.parquet"):
        done = use("encode", trained, "digits", "-o", tmp_path / name, "--batch-size", 50)
        assert done.exit_code == 0, done.stderr
        assert "180 images: codes of the shape (16, 1, 1)" in done.stderr
    codes = np.load(tmp_path / "codes.npy")
    np.testing.assert_allclose(codes, convae.load(trained).encode(test_images), atol=1e-5)
    assert (tmp_path / "codes.images.txt").read_text().splitlines()[179] == "digits/00179"
    table = pyarrow.parquet.read_table(tmp_path / "codes.parquet")
    assert table["image"].to_pylist()[3] == "digits/00003"
    assert (np.array(table["code"].to_pylist(), "float32") == codes[:, :, 0, 0]).all()


def test_pictures_from_the_standard_input(trained, tmp_path, rng) -> None:
    (tmp_path / "a").mkdir()
    pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
    for name in ("a/one.png", "two.jpg"):
        Image.fromarray(pixels).save(tmp_path / name)
    names = "".join(f"{tmp_path / name}\n" for name in ("a/one.png", "two.jpg"))
    done = use("reconstruct", trained, "-", "-o", tmp_path / "out", given=names)
    assert done.exit_code == 0, done.stderr
    files = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.png"))
    assert files == ["a/one.png", "two.jpg.png"]
    R = convae.load(trained).reconstruct((pixels / np.float32(255))[None, None])[0, 0]
    with Image.open(tmp_path / "out" / "a" / "one.png") as image:
        written = np.asarray(image)[:, :, 0].astype(int)
    assert np.abs(written - np.rint(R * 255)).max() <= 1


def test_scores_and_maps(trained, test_images, tmp_path) -> None:
    done = use(
        "score", trained, "digits", "-o", tmp_path / "scores.csv", "--maps", tmp_path / "maps"
    )
    assert done.exit_code == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()))
    detector = Detector.of_model(convae.load(trained))
    expected = SCORES["combined"].function(detector.see(test_images))
    errors = np.array([float(row["combined"]) for row in rows])
    np.testing.assert_allclose(errors, expected, rtol=1e-4, atol=1e-4)
    threshold = json.loads((trained / "summary.json").read_text())["threshold"]
    assert [row["anomaly"] for row in rows] == [str(int(error > threshold)) for error in errors]
    assert len(list((tmp_path / "maps" / "digits").glob("*.png"))) == 180


def test_the_threshold_can_be_decided_at_scoring_time(trained, tmp_path) -> None:
    errors = convae.load(trained).extras["validation.combined"]
    threshold = json.loads((trained / "summary.json").read_text())["threshold"]
    assert (np.diff(errors) >= 0).all()
    assert np.quantile(errors, 0.95) == pytest.approx(threshold)

    def flagged(option: str, value: float) -> set[str]:
        path = tmp_path / "scores.csv"
        done = use("score", trained, "digits", "-o", path, option, value)
        assert done.exit_code == 0, done.stderr
        rows = list(csv.DictReader(path.read_text().splitlines()))
        limit = np.quantile(errors, value) if option == "--quantile" else value
        anomalies = {row["image"] for row in rows if row["anomaly"] == "1"}
        above, below = limit + 0.001, limit - 0.001  # scores are written with 6 digits
        assert {row["image"] for row in rows if float(row["combined"]) > above} <= anomalies
        assert not anomalies & {row["image"] for row in rows if float(row["combined"]) < below}
        return anomalies

    assert flagged("--quantile", 1) < flagged("--quantile", 0.5) < flagged("--threshold", -9)
    assert flagged("--threshold", 99) == set()


@pytest.mark.parametrize("name", SCORES)
def test_every_score_has_its_threshold(trained, tmp_path, name: str) -> None:
    path = tmp_path / "scores.csv"
    done = use("score", trained, "digits", "-o", path, "--score", name, "--quantile", 0.9)
    assert done.exit_code == 0, done.stderr
    rows = list(csv.DictReader(path.read_text().splitlines()))
    limit = np.quantile(convae.load(trained).extras[f"validation.{name}"], 0.9)
    found = [float(row[name]) for row in rows]
    assert 0 < np.mean(found > limit) < 0.4
    assert [row["anomaly"] == "1" for row in rows] == pytest.approx(found > limit, abs=0)
    done = use("score", trained, "digits", "-o", path, "--score", name)
    limit = np.quantile(convae.load(trained).extras[f"validation.{name}"], 0.95)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["anomaly"] == "1" for row in rows] == [value > limit for value in found]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--threshold", "nan"], "--threshold: nan is out of range"),
        (["--quantile", "0"], "--quantile: 0"),
        (["--quantile", "1.5"], "--quantile: 1.5"),
        (["--quantile", "0.5", "--threshold", "1"], "give one of them"),
    ],
)
def test_thresholds_that_make_no_sense(trained, options: list[str], message: str) -> None:
    done = use("score", trained, "digits", *options)
    assert done.exit_code == 1
    assert message in done.stderr


def test_scores_on_the_standard_output(trained) -> None:
    done = use("score", trained, "digits")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[0] == "image,combined,anomaly"
    assert len(done.stdout.splitlines()) == 181


def test_unreadable_pictures_are_listed_and_the_rest_is_done(trained, tmp_path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_text("?")
    done = use("score", trained, tmp_path)
    assert done.exit_code == 1
    assert len(done.stdout.splitlines()) == 2
    assert "1 could not be read:" in done.stderr
    assert "bad.png: not a picture of a known format" in done.stderr


def test_exports(trained, test_images, tmp_path) -> None:
    for name in ("model.onnx", "state.safetensors"):
        done = use("export", trained, tmp_path / name)
        assert done.exit_code == 0, done.stderr
        assert "results differ from the model's by" in done.stdout
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    R = session.run(["reconstruction"], {"images": test_images})[0]
    np.testing.assert_allclose(R, convae.load(trained).reconstruct(test_images), atol=1e-5)
    with safe_open(tmp_path / "state.safetensors", "np") as file:
        assert "maximal_difference" in file.metadata()


def test_show_says_how_a_step_is_computed(trained) -> None:
    done = use("show", trained, "--plan", "100")
    assert "4 chunks of 25 images, each by a thread" in done.output
    assert "error(" in done.output


def test_show(trained, tmp_path) -> None:
    done = use("show", trained, "--filters", tmp_path / "filters.png")
    assert done.exit_code == 0, done.stderr
    for part in (
        parameters_of(trained),
        "layer 2: filters=16, kernel=input",
        "test_mse: 0.",
        SHORT[0],
    ):
        assert part in done.stdout
    with Image.open(tmp_path / "filters.png") as picture:
        assert picture.width > 100


def test_probe(trained) -> None:
    done = use("probe", trained, "--dataset", "digits", "--limit", 300)
    assert done.exit_code == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[:2] for line in lines[1:]] == [["codes", "16"], ["PCA", "16"], ["pixels", "64"]]
    assert lines[0] == ["features", "numbers", "linear", "neighbours"]
    assert all(float(share.rstrip("%")) > 70 for line in lines[1:] for share in line[2:])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["encode", "nowhere", "digits", "-o", "x.npy"], "RUN: 'nowhere' does not exist"),
        (["encode", "{empty}", "digits", "-o", "x.npy"], "holds no best.safetensors"),
        (["encode", "{run}", "digits", "-o", "x.csv"], ".npy or .parquet"),
        (["encode", "{run}", "{empty}", "-o", "{empty}/x.npy"], "no pictures in the folder"),
        (["reconstruct", "{run}", "nosuch", "-o", "x"], "nor a dataset by name"),
        (["export", "{run}", "model.h5"], "unknown suffix; expected one of .onnx"),
        (["probe", "{run}", "--dataset", "photos"], "has no labels"),
        *(
            pytest.param(
                arguments, "GPU", marks=pytest.mark.skipif(not missing_gpu(), reason="there is one")
            )
            for arguments in (
                ["encode", "{run}", "digits", "-o", "x.npy", "--device", "gpu"],
                ["gpu"],
                ["gpu", "{run}"],
            )
        ),
    ],
)
def test_mistakes_end_in_one_clear_line(trained, tmp_path, arguments, says: str) -> None:
    filled = [word.format(run=trained, empty=tmp_path) for word in arguments]
    done = use(*filled)
    assert done.exit_code == 1
    assert says in done.stderr
    assert isinstance(done.exception, SystemExit)  # and not what led to it
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command", ["encode", "reconstruct", "score", "export", "show", "probe", "gpu"]
)
def test_help_has_examples(command: str) -> None:
    done = use(command, "--help")
    assert done.exit_code == 0
    assert done.stdout.count("convae ") >= 2


@pytest.mark.gpu
def test_the_gpu_and_what_was_tried_on_it(cupy, trained, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("CONVAE_CACHE", str(tmp_path))
    done = use("gpu")
    assert done.exit_code == 0, done.stderr
    for part in ("card: ", "memory: ", "CuPy: ", "cuDNN: ", "ways tried: 0, kept in "):
        assert part in done.stdout
    done = use("gpu", trained, "--batch-size", 2)
    assert done.exit_code == 0, done.stderr
    assert "loss and gradients of 2 images: 20 nodes" in done.stdout
    assert re.search(r"^    tiles: error \d\.\de-\d\d, \d+ us$", done.stdout, re.M)
    assert "    portable" not in done.stdout
    done = use("gpu")
    tried = int(re.search(r"ways tried: (\d+)", done.stdout)[1])
    assert tried == len(re.findall(r"^  \S.*: error", done.stdout, re.M)) >= 15


def test_results_never_replace_what_they_are_made_of(trained, tmp_path) -> None:
    for name in ("scan.png", "scan.PNG", "scan.jpg"):
        Image.new("L", (8, 8), 100).save(tmp_path / name, "PNG")
    before = (tmp_path / "scan.png").read_bytes()
    done = use("reconstruct", trained, tmp_path, "-o", tmp_path)
    assert done.exit_code == 1
    assert "is the folder of the images themselves" in done.stderr
    assert (tmp_path / "scan.png").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 3
    done = use("reconstruct", trained, tmp_path, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert len(list((tmp_path / "out").iterdir())) == 3
    model = (trained / "best.safetensors").read_bytes()
    done = use("export", trained, trained / "best.safetensors")
    assert done.exit_code == 1
    assert "holds a model or a state of convae" in done.stderr
    assert (trained / "best.safetensors").read_bytes() == model


def test_names_of_any_bytes(trained, tmp_path) -> None:
    names = [b"two\nlines.png", b"latin\xff.png", b"plain.png"]
    for name in names:
        Image.new("L", (8, 8), 100).save(tmp_path / "plain.png")
        (tmp_path / "plain.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    for output in ("codes.npy", "codes.parquet"):
        done = use("encode", trained, tmp_path, "-o", tmp_path / "out" / output)
        assert done.exit_code == 0, done.stderr
    lines = (tmp_path / "out" / "codes.images.txt").read_text().splitlines()
    assert len(lines) == 3
    assert any(line.endswith("two\\nlines.png") for line in lines)
    assert any(line.endswith("latin\\udcff.png") for line in lines)


def test_nothing_readable_gives_an_empty_array_of_the_right_shape(trained, tmp_path) -> None:
    (tmp_path / "bad.png").write_text("?")
    for output in ("codes.npy", "codes.parquet"):
        assert use("encode", trained, tmp_path / "bad.png", "-o", tmp_path / output).exit_code == 1
    assert np.load(tmp_path / "codes.npy").shape == (0, 16, 1, 1)
    assert len(pyarrow.parquet.read_table(tmp_path / "codes.parquet")) == 0


def test_a_damaged_summary_is_named(trained, tmp_path) -> None:
    shutil.copy(trained / "best.safetensors", tmp_path)
    for content in ("{bad", "[1]", '{"threshold": null}'):
        (tmp_path / "summary.json").write_text(content)
        done = use("show", tmp_path)
        assert done.exit_code == 1
        assert "summary.json is damaged" in done.stderr


def installed(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command as a user types it."""
    command = [str(Path(sys.executable).with_name("convae")), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command_is_installed(trained) -> None:
    done = installed("show", trained)
    assert done.returncode == 0, done.stderr
    assert parameters_of(trained) in done.stdout
    done = installed("show", "nowhere")
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["Error: RUN: 'nowhere' does not exist"]
    assert installed("--version").stdout.split()[-1] == convae.__version__


def test_train_is_there_too() -> None:
    done = installed("train", "--help")
    assert done.returncode == 0
    for part in ("model: auto, conv, deep, linear, local", "trainer:", "batch_size: null"):
        assert part in done.stdout
    done = installed("train", "trainer.epoch=1")
    assert done.returncode == 1
    assert "error: trainer.epoch: no such key" in done.stderr


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KeyError("a bug of ours"), KeyError),
        (RuntimeError("not written, as its results differ"), RuntimeError),
        (UserError("model.h5: unknown suffix"), SystemExit),
        (PermissionError(13, "Permission denied"), SystemExit),
    ],
)
def test_only_errors_of_the_user_become_messages(
    trained, monkeypatch, error: Exception, expected: type
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(cli, "export", fail)
    done = use("export", trained, "model.onnx")
    assert done.exit_code == 1
    assert isinstance(done.exception, expected)
    assert (expected is SystemExit) == ("Error: " in done.stderr)


def test_parts_of_the_images_follow_each_other(trained, tmp_path) -> None:
    whole = use("encode", trained, "digits", "-o", tmp_path / "codes.npy")
    assert whole.exit_code == 0
    for number in (1, 2, 3):
        part = ("--shard", f"{number}/3", "-o")
        done = use("encode", trained, "digits", *part, tmp_path / f"codes-{number}.npy")
        assert done.exit_code == 0, done.stderr
        done = use("score", trained, "digits", *part, tmp_path / f"scores-{number}.csv")
        assert done.exit_code == 0, done.stderr
    codes = [np.load(tmp_path / f"codes-{number}.npy") for number in (1, 2, 3)]
    np.testing.assert_allclose(np.concatenate(codes), np.load(tmp_path / "codes.npy"), atol=1e-6)
    tables = [(tmp_path / f"scores-{number}.csv").read_text().splitlines() for number in (1, 2, 3)]
    names = [line.partition(",")[0] for table in tables for line in table[1:]]
    listed = (tmp_path / "codes.images.txt").read_text().splitlines()
    assert names == listed
    assert len({table[0] for table in tables}) == 1


def test_a_part_with_nothing_in_it_gives_an_empty_file(trained, tmp_path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "one.png")
    for number, count in (("1", 0), ("2", 1)):
        where = tmp_path / f"codes-{number}.npy"
        done = use("encode", trained, tmp_path / "one.png", "--shard", f"{number}/2", "-o", where)
        assert done.exit_code == 0, done.stderr
        assert len(np.load(where)) == count


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3", ""])
def test_parts_that_make_no_sense(trained, shard: str) -> None:
    done = use("score", trained, "digits", f"--shard={shard}")
    assert done.exit_code == 1
    assert f"--shard: {shard!r} is no part" in done.stderr
