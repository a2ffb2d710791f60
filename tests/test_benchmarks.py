"""What the benchmarks calculate, and what they say where they cannot run."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

import convae
from benchmarks import quality, step_gpu
from benchmarks.peers import Peer
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


def test_a_level_is_reached_when_the_error_first_is_no_higher() -> None:
    curve = quality.Curve([0.5, 0.2, 0.1, 0.15], [1.0, 2.0, 3.0, 4.0])
    assert curve.reaches(0.5) == (0, 1.0)
    assert curve.reaches(0.15) == (2, 3.0)
    assert curve.reaches(0.05) is None
    others = [quality.Curve([0.5, 0.1], [1.0, 7.0]), quality.Curve([0.5], [1.0])]
    assert quality.reached([curve, *others], 0.15) == "5 s, epoch 2 (2 of 3)"
    assert quality.reached(others, 0.05) == "never"


def test_all_contestants_of_quality_learn_the_same_images() -> None:
    row = quality.Row(4, ("dataset=digits", "dataset.limit=64", "dataset.evaluation_limit=32"))
    task = quality.Task((), "", ("trainer.epochs=3", "trainer.batch_size=16"))
    words = task.overrides(row, 0)
    data = quality.load_dataset(quality.composed(words).dataset)
    ends = {}
    for who, build in quality.contestants().items():
        config = quality.choose(quality.composed(words), data).config
        curve = quality.train(config, data, build)
        assert len(curve.errors) == len(curve.seconds) == 4
        assert curve.errors[-1] < curve.errors[0]
        ends[who] = curve.errors[0]
    assert ends["convae"] < 0.5 * min(ends["PyTorch, tied"], ends["PyTorch, untied"])


def test_an_unknown_row_is_named() -> None:
    command = [sys.executable, "-m", "benchmarks.quality", "presets", "minst"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "unknown: minst; rows are digits, MNIST" in done.stderr


@pytest.mark.parametrize("tied", [True, False])
def test_the_peer_in_pytorch_reconstructs_what_the_model_does(tied: bool, rng) -> None:
    layers = [
        convae.Layer(6, 4, stride=2, padding="same", tied=tied),
        convae.Layer(8, 4, stride=2, padding="same", tied=tied),  # 7 to 4: padded unevenly
        convae.Layer(3, "input", activation="identity", visible_bias="position", tied=tied),
    ]
    model = convae.Autoencoder((1, 14, 14), layers)
    for array in model.parameters.values():
        array += 0.1 * rng.standard_normal(array.shape)
    x = rng.random((5, 1, 14, 14), dtype="float32")
    with torch.inference_mode():
        R = Peer(model)(torch.from_numpy(x)).numpy()
    assert np.abs(R - model.reconstruct(x)).max() < 1e-5
