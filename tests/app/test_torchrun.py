"""Whole runs by several processes: one folder, one voice, and what happens when one fails."""

from __future__ import annotations

import json
import random
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import convae
from benchmarks import lost_processes
from convae.models.loading import BEST, LAST
from convae.training.state import _states, read_state
from tests.helpers import REPOSITORY
from tests.training.test_distributed import torchrun

pytestmark = pytest.mark.slow

SCRIPT = REPOSITORY / "tests" / "app" / "parallel_run.py"

SHORT = (
    *("dataset=digits", "model=conv", "trainer.epochs=2", "trainer.batch_size=64"),
    *("augmentation=auto", "corruption=gaussian", "trainer.clip_norm=0.01", "schedule.warmup=5"),
    *("trainer.embeddings=0", "trainer.patience=null", "trainer.checkpoint_minutes=100"),
    *("dtype=float64", "init=he"),  # zeros of a start as PCA are where rounding decides
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    convae.train([*SHORT, f"hydra.run.dir={folder}"])
    return folder


def figures(run: Path) -> dict[str, float]:
    return json.loads((run / "summary.json").read_text())


def assert_alike(run: Path, other: Path) -> None:
    """Check that two runs differ by no more than rounding does."""
    for name, value in figures(other).items():
        if name != "run":
            assert figures(run)[name] == pytest.approx(value, rel=1e-6, abs=1e-9), name
    for file in (BEST, LAST):
        a, b = (convae.load(each / file).flat_parameters for each in (run, other))
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize("processes", [2, 3])
def test_a_run_by_several_processes_is_that_of_one(alone, tmp_path, processes: int) -> None:
    run = tmp_path / "run"
    done = torchrun(processes, SCRIPT, "none", *SHORT, f"run={run}")
    assert done.returncode == 0, done.stderr
    assert_alike(run, alone)
    assert figures(run)["run"] == figures(alone)["run"]
    assert done.stdout.count("epoch 1/2") == done.stdout.count("Run: ") == 1
    assert len(list(run.glob("events.*"))) == 1
    names = {path.name for path in alone.iterdir()} - {p.name for p in alone.glob("events.*")}
    assert {path.name for path in run.iterdir()} - {p.name for p in run.glob("events.*")} == names
    assert (run / "train.log").read_text().count("epoch 2/2") == 1
    again = torchrun(processes, SCRIPT, "none", *SHORT, f"run={run}")
    assert again.returncode == 0
    assert "all epochs are done" in again.stdout


@pytest.mark.parametrize(
    ("mishap", "says"),
    [
        ("other seed", "error: arguments: differs between the processes"),
        (
            "other code",
            r"error: convae: differs between the processes, 0.0.1 \(another\)",
        ),
        ("dies at the start", "the second process is no more"),
        ("error", "error: a disk is gone"),
        ("bug", "ZeroDivisionError: a bug of ours"),
        ("killed", "Signal 9"),
    ],
)
def test_a_process_that_fails_ends_all(tmp_path, mishap: str, says: str) -> None:
    since = time.monotonic()
    done = torchrun(2, SCRIPT, mishap, *SHORT, f"run={tmp_path / 'run'}")
    assert done.returncode == 1
    assert re.search(says, done.stderr), done.stderr
    assert done.stderr.count("error: ") <= 1
    assert "another process" not in done.stderr or mishap == "killed"
    assert time.monotonic() - since < 60


def test_one_that_is_asked_to_stop_saves_one_state_for_all(alone, tmp_path) -> None:
    """And another number of processes goes on from there."""
    run = tmp_path / "run"
    done = torchrun(2, SCRIPT, "asked to stop", *SHORT, f"run={run}")
    assert done.returncode == 1
    assert "stopped after step 21; to resume: " in done.stderr
    _, description = read_state(run)
    assert description["progress"]["step"] == 21
    assert len(_states(run)) == 2  # the other is of the beginning
    done = torchrun(3, SCRIPT, "none", *SHORT, f"run={run}")
    assert done.returncode == 0, done.stderr
    assert "resuming after step 21" in done.stdout
    assert_alike(run, alone)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are found in /proc")
def test_killed_processes_begin_again(tmp_path) -> None:
    """Four of them; benchmarks/lost_processes.py does it fifty times."""
    whole = lost_processes.start(tmp_path / "whole", restarts=0)
    assert whole.wait(lost_processes.LIMIT) == 0
    assert lost_processes.disturbed(tmp_path / "run", 4, random.Random(1)) > 0
    assert (
        lost_processes.parameters(tmp_path / "run") == lost_processes.parameters(tmp_path / "whole")
    ).all()


def test_the_learning_rate_finder_finds_the_same(tmp_path) -> None:
    words = (*SHORT, "find_learning_rate=true")
    one = convae.train([*words, f"hydra.run.dir={tmp_path / 'one'}"])
    done = torchrun(2, SCRIPT, "none", *words, f"run={tmp_path / 'two'}")
    assert f"optimizer.learning_rate={one.figures['learning_rate']:.1e}" in done.stdout
    assert (tmp_path / "two" / "learning_rate.png").is_file()


def test_layers_pretrained_by_several_processes(tmp_path) -> None:
    words = (*SHORT, "trainer.pretrain_epochs=1", "trainer.epochs=1")
    convae.train([*words, f"hydra.run.dir={tmp_path / 'one'}"])
    done = torchrun(2, SCRIPT, "none", *words, f"run={tmp_path / 'two'}")
    assert done.returncode == 0, done.stderr
    assert_alike(tmp_path / "two", tmp_path / "one")


def test_classifiers_and_streamed_pictures(tmp_path) -> None:
    """Each process reads its own share of the pictures from disk."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for n in range(90):
        (tmp_path / "data" / "ab"[n % 2]).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 128, (12, 12, 3)) + 100 * (n % 2)
        Image.fromarray(pixels.astype("uint8")).save(tmp_path / "data" / "ab"[n % 2] / f"{n}.png")
    words = (
        *("task=classify", "dataset=imagefolder", f"dataset.root={tmp_path / 'data'}"),
        *("dataset.memory_mb=0", "model=conv", "trainer.epochs=2", "trainer.batch_size=16"),
        *("dtype=float64", "init=he"),
    )
    convae.train([*words, f"hydra.run.dir={tmp_path / 'one'}"])
    done = torchrun(2, SCRIPT, "none", *words, f"run={tmp_path / 'two'}")
    assert done.returncode == 0, done.stderr
    assert_alike(tmp_path / "two", tmp_path / "one")
