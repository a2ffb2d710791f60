"""What a run's folder is guarded against: second runs, second processes, other data, lost files."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

import convae
from convae.errors import UserError
from convae.files import TEMPORARY, locked
from convae.training.signals import SIGNALS
from convae.training.state import read_state
from tests.helpers import REPOSITORY, run_train, write_pictures

QUICK = ("device=cpu", "trainer.embeddings=0", "dataset.limit=128", "dataset.evaluation_limit=64")


def train(folder: Path, *overrides: str, epochs: int = 1) -> convae.app.run.Result:
    return convae.train([*QUICK, f"trainer.epochs={epochs}", f"hydra.run.dir={folder}", *overrides])


def resume(folder: Path, *overrides: str, epochs: int = 2) -> convae.app.run.Result:
    return convae.train([f"resume={folder}", f"trainer.epochs={epochs}", *overrides])


@pytest.fixture
def run(tmp_path) -> Path:
    folder = tmp_path / "run"
    train(folder)
    return folder


def test_a_used_folder_is_refused_and_untouched(run) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    done = run_train(*QUICK, "seed=5", f"hydra.run.dir={run}")
    assert done.returncode == 1
    assert f"holds a run already; resume it with resume={run}" in done.stderr
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_folder_in_use_is_refused(run) -> None:
    with FileLock(run / ".lock"), pytest.raises(UserError, match="in use by another run"):
        resume(run)


def test_temporary_files_of_killed_runs_are_removed(tmp_path) -> None:
    leftover, other = tmp_path / f".best.safetensors.abc{TEMPORARY}", tmp_path / ".hidden"
    for path in (leftover, other):
        path.write_text("x")
    with locked(tmp_path):
        assert not leftover.exists()
        assert other.exists()


def test_every_run_has_an_id_that_its_states_keep(run) -> None:
    before = read_state(run)[1]["progress"]["run"]
    resume(run)
    assert read_state(run)[1]["progress"]["run"] == before != ""


@pytest.mark.parametrize("damage", ["deleted", "cut", "another model's", "a later epoch's"])
def test_the_best_model_comes_from_the_state(run, tmp_path, damage: str) -> None:
    """A learning rate of nearly 0 makes the first epoch the best one."""
    best = run / "best.safetensors"
    expected = best.read_bytes()
    if damage == "deleted":
        best.unlink()
    elif damage == "cut":
        best.write_bytes(expected[:100])
    elif damage == "another model's":
        train(tmp_path / "other", "seed=3")
        shutil.copy(tmp_path / "other" / "best.safetensors", best)
    else:
        model = convae.load(run)
        model.flat_parameters[...] += 1
        model.save(best)
    result = resume(run, "optimizer.learning_rate=30", "trainer.clip_norm=null")
    assert result.figures["best_epoch"] == 1
    assert best.read_bytes() == expected


@pytest.mark.parametrize("change", ["added", "removed", "replaced"])
def test_resuming_with_other_images_is_refused(tmp_path, change: str) -> None:
    pictures, folder = tmp_path / "pictures", tmp_path / "run"
    write_pictures(pictures, 40)
    own = ("dataset=imagefolder", f"dataset.root={pictures}", "model=spatial", "trainer.probe=2")
    train(folder, *own)
    first = sorted(pictures.rglob("*.png"))[0]
    if change == "added":
        shutil.copy(first, first.with_name("new.png"))
    elif change == "removed":
        first.unlink()
    else:
        shutil.copy(sorted(pictures.rglob("*.png"))[1], first)
    with pytest.raises(UserError, match=r"resume: .*images are not those of the run's beginning"):
        resume(folder)


def test_resuming_with_another_seed_is_refused(run) -> None:
    with pytest.raises(UserError, match=r"resume: .*images are not those"):
        resume(run, "seed=7")


def test_another_loss_starts_the_search_for_the_best_again(run, caplog) -> None:
    with caplog.at_level(logging.WARNING, "convae"):
        logging.getLogger("convae").propagate = True
        result = resume(run, "loss.name=bce")
    assert result.figures["best_epoch"] == 2


def test_a_prolonged_schedule_says_how_the_rate_jumps(tmp_path, capsys) -> None:
    train(tmp_path / "run", "schedule=cosine")
    capsys.readouterr()
    resume(tmp_path / "run", epochs=4)
    assert "the learning rate goes from 0 to 0.00" in capsys.readouterr().out


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(n, marks=() if n == signal.SIGTERM else pytest.mark.slow)
        for n in SIGNALS
        if n != signal.SIGINT
    ],
)
def test_signals_save_the_state(tmp_path, number: signal.Signals) -> None:
    command = [sys.executable, "train.py", *QUICK, "trainer.epochs=500"]
    command += [f"hydra.run.dir={tmp_path}", "trainer.checkpoint_every=500"]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch"):
            break
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"to resume: python train.py resume={tmp_path}" in said
    assert read_state(tmp_path)[1]["progress"]["step"] > 0


def test_without_a_terminal_long_epochs_report_in_lines(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("convae.training.trainer.REPORT_SECONDS", 0.0)
    monkeypatch.setattr(os, "isatty", lambda handle: False)
    train(tmp_path / "run", "trainer.batch_size=8", "trainer.log_every=4")
    assert "epoch 1/1: step 4 of 16, loss " in capsys.readouterr().out


def test_every_key_of_an_experiment_counts(tmp_path) -> None:
    own = tmp_path / "own" / "experiment"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text(
        "# @package _global_\nseed: 5\ndtype: float64\ntrainer: {epochs: 1}\n"
        f"hydra: {{run: {{dir: {tmp_path / 'there'}}}}}\n"
    )
    result = convae.train([*QUICK, "experiment=mine"], config_dir=tmp_path / "own")
    assert result.directory == tmp_path / "there"
    assert (result.model.seed, result.model.dtype) == (5, "float64")


def test_names_of_classes_win_over_positions(tmp_path) -> None:
    from convae.configuration import DatasetConfig
    from convae.data.datasets import load_dataset

    for name in ("1", "2", "3"):
        write_pictures(tmp_path / name, 20)
    config = DatasetConfig(name="ImageFolder", root=str(tmp_path), normal=[1], workers=0)
    data = load_dataset(config)
    assert set(np.unique(data.train.labels)) == {0}  # the folder "1" comes first
