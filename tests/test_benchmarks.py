"""What the benchmarks calculate, and what they say where they cannot run."""

from __future__ import annotations

import subprocess
import sys

import pytest

import convae
from benchmarks import step_gpu
from convae import engine
from tests.helpers import REPOSITORY


def test_the_floor_of_a_step_worked_by_hand() -> None:
    """Two layers of 4 and 8 positions: 5 operations below, 6 above."""
    layers = [convae.Layer(2, 2, stride=2), convae.Layer(3, 4)]
    model = convae.Autoencoder((1, 8), layers)
    below = 5 * 2 * (4 * 2 * 2) * 10  # 4 outputs, 2 filters, 2 elements; 10 examples
    above = 6 * 2 * (1 * 3 * 4 * 2) * 10
    assert step_gpu.floor(model, 10, rate=1.0, bandwidth=1e30) == below + above
    numbers = 5 * (8 + 2 * 4) + 6 * (2 * 4 + 3)
    assert step_gpu.floor(model, 10, rate=1e30, bandwidth=1.0) == 4 * 10 * numbers
    assert step_gpu.floor(model, 10, rate=1e30, bandwidth=1.0, itemsize=2) == 2 * 10 * numbers


def test_the_workloads_of_a_gpu_are_large() -> None:
    names = step_gpu.workloads()
    assert "1x28x28 b1024: 32@5/2 64@3/2" in names
    assert len(names) == 8


@pytest.mark.parametrize(
    ("argument", "says"), [("device=gpu", "CuPy"), ("gpu", "expected device=gpu")]
)
def test_the_benchmark_says_what_is_missing(argument: str, says: str) -> None:
    if not engine.missing_gpu():
        pytest.skip("there is a GPU")
    command = [sys.executable, "-m", "benchmarks.step", argument]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_run_killed_three_times_ends_as_one_left_alone() -> None:
    command = [sys.executable, "-m", "benchmarks.kills", "--kills", "3"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "| files and final states equal, no temporary files | yes |" in done.stdout
