"""Where the command line writes: never over its inputs, over other people's files if told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from click.testing import CliRunner
from PIL import Image

import convae
from convae.app.cli import main as command_line
from tests.helpers import write_pictures


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    layer = convae.Layer(2, 3, padding="same")
    convae.Autoencoder((3, 12, 12), [layer]).save(path)
    return str(path)


@pytest.fixture
def slow_model(tmp_path) -> str:
    """A model of large pictures, with which a dataset takes long."""
    path = tmp_path / "slow.safetensors"
    convae.Autoencoder((3, 512, 512), [convae.Layer(16, 5, stride=2, padding="same")]).save(path)
    return str(path)


@pytest.fixture
def pictures(tmp_path) -> Path:
    write_pictures(tmp_path / "pictures", 3)
    return tmp_path / "pictures"


def call(*arguments: object):
    return CliRunner().invoke(command_line, [str(argument) for argument in arguments])


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("command", ["score", "encode"])
def test_an_output_that_is_an_input_is_refused(model, pictures, command: str) -> None:
    """A shell that expands ``-o *.png`` makes the first picture the output."""
    first, *others = sorted(pictures.rglob("*.png"))
    before = contents(pictures)
    done = call(command, model, "-o", first, first, *others)
    assert done.exit_code == 1
    assert "is one of the input images" in done.output
    assert contents(pictures) == before


def test_originals_are_not_replaced_through_links(model, pictures, tmp_path) -> None:
    links = tmp_path / "links"
    links.mkdir()
    for path in sorted(pictures.rglob("*.png")):
        os.symlink(path, links / path.name)
    before = contents(pictures)
    targets = {path.parent for path in before}
    for target in targets:
        done = call("reconstruct", model, links, "-o", target)
        assert done.exit_code == 1
        assert "is one of the input images" in done.output
    assert contents(pictures) == before


def test_other_peoples_files_need_overwrite(model, pictures, tmp_path) -> None:
    notes = tmp_path / "notes.csv"
    notes.write_text("do not lose this")
    done = call("score", model, pictures, "-o", notes)
    assert done.exit_code == 1
    assert "nothing in it says that convae wrote it" in done.output
    assert notes.read_text() == "do not lose this"
    assert call("score", model, pictures, "-o", notes, "--overwrite").exit_code == 0
    assert notes.read_text().startswith("image,squared_error")


def test_results_of_convae_are_replaced(model, pictures, tmp_path) -> None:
    for _ in range(2):
        assert call("score", model, pictures, "-o", tmp_path / "s.csv").exit_code == 0
        assert call("encode", model, pictures, "-o", tmp_path / "c.npy").exit_code == 0
        assert call("reconstruct", model, pictures, "-o", tmp_path / "out").exit_code == 0
    picture = next((tmp_path / "out").rglob("*.png"))
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(picture)
    assert call("reconstruct", model, pictures, "-o", tmp_path / "out").exit_code == 1


def test_errors_that_are_nan_are_anomalies(pictures, tmp_path) -> None:
    broken = convae.Autoencoder((3, 12, 12), [convae.Layer(2, 3, padding="same")])
    broken.flat_parameters[...] = np.nan
    broken.metadata["thresholds"] = {"squared_error": 0.5}
    broken.save(tmp_path / "best.safetensors")
    assert call("score", tmp_path, pictures, "-o", tmp_path / "s.csv").exit_code == 0
    rows = (tmp_path / "s.csv").read_text().splitlines()[1:]
    assert [row.split(",")[1:] for row in rows] == [["nan", "1"]] * 3
    done = call("reconstruct", tmp_path, pictures, "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert "reconstruction is not finite" in done.output


def test_scores_without_a_threshold_say_so(model, pictures, tmp_path) -> None:
    done = call("score", model, pictures, "-o", tmp_path / "s.csv")
    assert "no column anomaly" in done.output
    given = call("score", model, pictures, "--threshold", 0)
    assert [line.rsplit(",")[-1] for line in given.stdout.splitlines()[1:]] == ["1"] * 3
    refused = call("score", model, pictures, "--quantile", 0.5)
    assert refused.exit_code == 1
    assert "keeps no scores of validation images" in refused.output


def test_a_terminated_command_leaves_nothing_half_written(slow_model, tmp_path) -> None:
    command = [sys.executable, "-c", "from convae.app.cli import main; main()"]
    command += ["encode", slow_model, "photos", "-o", str(tmp_path / "out" / "codes.npy")]
    command += ["--batch-size", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list((tmp_path / "out").glob(".*")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert list((tmp_path / "out").iterdir()) == []


def test_long_names_are_shortened_and_kept_apart(model, tmp_path) -> None:
    folder = tmp_path / "long"
    folder.mkdir()
    for last in "ab":
        Image.new("RGB", (12, 12)).save(folder / f"{'n' * 250}{last}.png")
    done = call("reconstruct", model, folder, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "out").iterdir())) == 2


@pytest.mark.parametrize("argument", ["{}/pipe.png", "{}/*.png"])
def test_pipes_and_links_to_nothing_are_listed(model, tmp_path, argument: str) -> None:
    write_pictures(tmp_path / "in", 1)
    os.mkfifo(tmp_path / "in" / "pipe.png")
    (tmp_path / "in" / "gone.png").symlink_to("nowhere")
    done = call("score", model, argument.format(tmp_path / "in"), "-o", tmp_path / "s.csv")
    assert done.exit_code == 1
    assert "pipe.png: not a file" in done.output
    assert ("gone.png: not a file" in done.output) == ("*" in argument)


def test_exports_and_filters_replace_no_files_of_others(model, pictures, tmp_path) -> None:
    for name, words in (
        ("mine.safetensors", ("export", model)),
        ("mine.png", ("show", model, "--filters")),
        ("c.npy", ("encode", model, pictures, "-o")),
    ):
        target = tmp_path / name
        foreign = target.with_suffix(".images.txt") if name == "c.npy" else target
        foreign.write_text("mine")
        done = call(*words, target)
        assert done.exit_code == 1
        assert "--overwrite" in done.output
        assert foreign.read_text() == "mine"
        assert call(*words, target, "--overwrite").exit_code == 0
        assert call(*words, target).exit_code == 0  # ours now


def test_a_folder_is_no_table(model, pictures, tmp_path) -> None:
    done = call("score", model, pictures, "-o", tmp_path)
    assert "is a folder; expected a file" in done.output


FOREIGN = {
    "labels.csv": b"image,class\n00.png,good\n",
    "scores.csv": b"image,squared_error_of_mine\n",
    "notes.html": b"<html>my notes on convae</html>",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_files_that_look_like_ours_are_not_replaced(model, pictures, tmp_path, name: str) -> None:
    (tmp_path / name).write_bytes(FOREIGN[name])
    command = ("score", model, pictures) if name.endswith("csv") else ("report", model)
    done = call(*command, "-o", tmp_path / name)
    assert done.exit_code == 1
    assert "nothing in it says that convae wrote it" in done.output
    assert (tmp_path / name).read_bytes() == FOREIGN[name]


def test_codes_that_look_like_ours_are_not_replaced(model, pictures, tmp_path) -> None:
    pyarrow.parquet.write_table(
        pyarrow.table({"image": ["a"], "code": [1.0]}), tmp_path / "c.parquet"
    )
    np.save(tmp_path / "c.npy", np.zeros(8))
    (tmp_path / "c.signals.txt").write_text("mine")
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "empty.images.txt").write_text("mine")
    for name in ("c.parquet", "c.npy", "empty.npy"):
        before = (tmp_path / name).read_bytes()
        assert call("encode", model, pictures, "-o", tmp_path / name).exit_code == 1
        assert (tmp_path / name).read_bytes() == before
    for _ in range(2):
        done = call("encode", model, pictures, "-o", tmp_path / "own.parquet")
        assert done.exit_code == 0, done.output


def test_nothing_is_written_beside_other_peoples_pictures(model, pictures, tmp_path) -> None:
    """Not even what comes before them."""
    out = tmp_path / "out"
    out.mkdir()
    write_pictures(tmp_path / "other", 3)
    (tmp_path / "other" / "002.png").rename(out / "002.png")
    before = contents(out)
    for option in ((), ("--maps",)):
        arguments = (
            ("score", model, pictures, "--maps", out)
            if option
            else ("reconstruct", model, pictures, "-o", out)
        )
        done = call(*arguments)
        assert done.exit_code == 1
        assert "002.png exists, and nothing in it says" in done.output
        assert contents(out) == before


def test_one_picture_may_be_written_to_one_file(model, pictures, tmp_path) -> None:
    target = tmp_path / "one.png"
    assert call("reconstruct", model, pictures / "000.png", "-o", target).exit_code == 0
    assert call("reconstruct", model, pictures, "-o", tmp_path / "all").exit_code == 0
    assert target.read_bytes() == (tmp_path / "all" / "000.png").read_bytes()
    done = call("reconstruct", model, pictures, "-o", target)
    assert done.exit_code == 1
    assert "there are 3; name a folder" in done.output
    (tmp_path / "file").write_text("no folder")
    done = call("reconstruct", model, pictures, "-o", tmp_path / "file")
    assert done.exit_code == 1
    assert "is a file; expected a folder" in done.output


def test_pictures_by_a_table(model, pictures, tmp_path) -> None:
    table = pictures / "all.csv"
    table.write_text("path,label\n001.png,a\n000.png,b\nmissing.png,b\n")
    done = call("score", model, table, "-o", tmp_path / "s.csv")
    assert done.exit_code == 1
    assert "missing.png: not a file" in done.output
    rows = (tmp_path / "s.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == [str(pictures / f"00{n}.png") for n in (1, 0)]
