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

from convae.app import entry
from convae.app.sweeps import as_csv, as_table, collect
from convae.configuration import Config
from tests.helpers import REPOSITORY, SHORT, run_train


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


def test_the_screen_shows_the_same_in_columns(tmp_path) -> None:
    write_job(tmp_path / "0", ["seed=11"], 0.123456789)
    write_job(tmp_path / "1", ["seed=2"], None)
    header, first, second = as_table(collect(tmp_path)).splitlines()
    assert header.split()[:3] == ["run", "seed", "validation_loss"]
    assert first.split() == ["0", "11", "0.12346"]
    assert second.split() == ["1", "2"]
    assert header.index("seed") + 4 == first.index("11") + 2  # aligned to the right


def check_table(folder: Path, output: str, runs: int) -> None:
    rows = list(csv.DictReader((folder / "results.csv").read_text().splitlines()))
    assert len(rows) == runs
    losses = [float(row["validation_loss"]) for row in rows]
    assert losses == sorted(losses)
    best = next(line for line in output.splitlines() if line.startswith("Best: "))
    summary = json.loads((folder / rows[0]["run"] / "summary.json").read_text())
    assert summary["validation_loss"] == losses[0]
    for key, value in rows[0].items():
        if "." in key:
            assert f"{key}={value}" in best


ONE = (*SHORT, "trainer.epochs=1", "trainer.embeddings=0", "device=cpu")


def test_a_sweep_over_sizes(main, tmp_path, capsys) -> None:
    main("-m", "experiment=sizes", *ONE, f"hydra.sweep.dir={tmp_path}")
    output = capsys.readouterr().out
    check_table(tmp_path, output, 3)
    assert "Best: convae train " in output


@pytest.mark.slow
def test_jobs_at_the_same_time(tmp_path) -> None:
    if importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher") is None:
        pytest.skip("hydra-joblib-launcher is not installed")
    done = run_train("-m", "hydra/launcher=joblib", "seed=1,2", *ONE, f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    check_table(tmp_path, done.stdout, 2)
    assert "Best: python train.py " in done.stdout


@pytest.mark.slow
def test_a_search_with_optuna(tmp_path) -> None:
    if importlib.util.find_spec("hydra_plugins.hydra_optuna_sweeper") is None:
        pytest.skip("hydra-optuna-sweeper is not installed")
    done = run_train(
        "-m",
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=2",
        "optimizer.learning_rate=tag(log,interval(0.0005,0.01))",
        *ONE,
        f"hydra.sweep.dir={tmp_path}",
    )
    assert done.returncode == 0, done.stderr
    check_table(tmp_path, done.stdout, 2)


def failed_runs(folder: Path, caught: pytest.ExceptionInfo[SystemExit], key: str) -> list[str]:
    """The values of a key in the runs that failed, after a sweep that ended with exit status 1."""
    assert isinstance(caught.value.code, str)  # printed, and the exit status is 1
    assert "1 of the runs failed" in caught.value.code
    rows = list(csv.DictReader((folder / "results.csv").read_text().splitlines()))
    assert len(rows) == 3
    return [row[key] for row in rows if row["validation_loss"] == ""]


def test_a_failed_run_loses_neither_the_others_nor_the_table(main, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main("-m", "model.layers.0.filters=4,0,8", *ONE, f"hydra.sweep.dir={tmp_path}")
    assert failed_runs(tmp_path, caught, "model.layers.0.filters") == ["0"]
    assert "error: model.layers.0.filters: 0 is too small" in capsys.readouterr().out


def test_a_bug_in_a_run_loses_nothing_and_shows_its_traceback(
    main, tmp_path, monkeypatch, capsys
) -> None:
    right = entry.run

    def buggy(config: Config, *others):
        if config.seed == 2:
            raise KeyError("a bug of ours")
        return right(config, *others)

    monkeypatch.setattr(entry, "run", buggy)
    with pytest.raises(SystemExit) as caught:
        main("-m", "seed=1,2,3", *ONE, f"hydra.sweep.dir={tmp_path}")
    assert failed_runs(tmp_path, caught, "seed") == ["2"]
    output = capsys.readouterr().out
    assert "Traceback" in output
    assert "KeyError: 'a bug of ours'" in output


def test_a_failed_sweep_exits_with_1(tmp_path) -> None:
    done = run_train("-m", "model.layers.0.filters=0,0", *ONE, f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 1
    assert "2 of the runs failed" in done.stderr
    assert (tmp_path / "results.csv").is_file()


def test_a_sweep_cannot_resume(finished, tmp_path) -> None:
    done = run_train("-m", f"resume={finished[0]}", f"hydra.sweep.dir={tmp_path}")
    assert "resume: one run resumes at a time" in done.stdout + done.stderr
    assert done.returncode == 1


def test_a_signal_ends_the_whole_sweep(tmp_path) -> None:
    command = [sys.executable, "train.py", "-m", "seed=1,2", f"hydra.sweep.dir={tmp_path}"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("0/best.safetensors")):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "to resume: python train.py resume=" in said
    assert not (tmp_path / "1").exists()
