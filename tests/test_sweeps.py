"""The table that a sweep leaves."""

from __future__ import annotations

import csv
import importlib.util
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from convae.app.sweeps import as_csv, collect
from tests.conftest import REPOSITORY
from tests.test_train import SHORT, run


def write_job(folder: Path, overrides: list[str], loss: float | None) -> None:
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("".join(f"- {o}\n" for o in overrides))
    if loss is not None:
        (folder / "summary.json").write_text(json.dumps({"validation_loss": loss}))


def test_the_best_run_comes_first_and_the_failed_one_last(tmp_path) -> None:
    write_job(tmp_path / "0", ["seed=1"], 0.3)
    write_job(tmp_path / "1", ["seed=2", "model.layers.0.kernel=[3,5]"], None)
    write_job(tmp_path / "10", ["+model.layers.1.tile=2"], 0.1)
    (tmp_path / "results").mkdir()
    rows = collect(tmp_path)
    assert [row["run"] for row in rows] == [10, 0, 1]
    table = list(csv.DictReader(as_csv(rows).splitlines()))
    assert [row["seed"] for row in table] == ["", "1", "2"]
    assert table[2]["model.layers.0.kernel"] == "[3,5]"
    assert table[0]["model.layers.1.tile"] == "2"
    assert [row["validation_loss"] for row in table] == ["0.1", "0.3", ""]


def check_table(folder: Path, output: str, runs: int) -> None:
    rows = list(csv.DictReader((folder / "results.csv").read_text().splitlines()))
    assert len(rows) == runs
    losses = [float(row["validation_loss"]) for row in rows]
    assert losses == sorted(losses)
    best = next(line for line in output.splitlines() if line.startswith("Best: python train.py "))
    summary = json.loads((folder / rows[0]["run"] / "summary.json").read_text())
    assert summary["validation_loss"] == losses[0]
    for key, value in rows[0].items():
        if "." in key:
            assert f"{key}={value}" in best


ONE = (*SHORT, "trainer.epochs=1", "trainer.embeddings=0")


def test_a_sweep_over_sizes(tmp_path) -> None:
    done = run("-m", "experiment=sizes", *ONE, f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    check_table(tmp_path, done.stdout, 3)


def test_jobs_at_the_same_time(tmp_path) -> None:
    if importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher") is None:
        pytest.skip("hydra-joblib-launcher is not installed")
    done = run("-m", "hydra/launcher=joblib", "seed=1,2", *ONE, f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    check_table(tmp_path, done.stdout, 2)


def test_a_search_with_optuna(tmp_path) -> None:
    if importlib.util.find_spec("hydra_plugins.hydra_optuna_sweeper") is None:
        pytest.skip("hydra-optuna-sweeper is not installed")
    done = run(
        "-m",
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=2",
        "optimizer.learning_rate=tag(log,interval(0.0005,0.01))",
        *ONE,
        f"hydra.sweep.dir={tmp_path}",
    )
    assert done.returncode == 0, done.stderr
    check_table(tmp_path, done.stdout, 2)


def test_a_failed_run_loses_neither_the_others_nor_the_table(tmp_path) -> None:
    done = run("-m", "model.layers.0.filters=4,0,8", *ONE, f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 1
    assert "model.layers.0.filters: 0 is too small" in done.stdout
    assert "1 of the runs failed" in done.stderr
    rows = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert [row["model.layers.0.filters"] for row in rows][2] == "0"
    assert rows[2]["validation_loss"] == ""


def test_a_signal_ends_the_whole_sweep(tmp_path) -> None:
    command = [sys.executable, "train.py", "-m", "seed=1,2", f"hydra.sweep.dir={tmp_path}"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("0/best.safetensors")):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "to go on: python train.py resume=" in said
    assert not (tmp_path / "1").exists()
