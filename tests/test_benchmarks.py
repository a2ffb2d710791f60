"""What the benchmarks calculate, and what they say where they cannot run."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import convae
from benchmarks import (
    card,
    card_probe,
    comparison,
    measure,
    operations,
    problems,
    quality,
    step_gpu,
    turns,
    workloads,
)
from benchmarks.peers import Peer
from convae import engine
from tests.helpers import REPOSITORY


def test_the_floor_of_a_step_worked_by_hand() -> None:
    """Two layers of 4 and 8 positions: 5 operations below, 6 above."""
    layers = [convae.Layer(2, 2, stride=2), convae.Layer(3, 4)]
    model = convae.Autoencoder((1, 8), layers)
    below = 5 * 2 * (4 * 2 * 2) * 10  # 4 outputs, 2 filters, 2 elements; 10 examples
    above = 6 * 2 * (1 * 3 * 4 * 2) * 10
    assert card.floor(model, 10, rate=1.0, bandwidth=1e30) == below + above
    numbers = 5 * (8 + 2 * 4) + 6 * (2 * 4 + 3)
    assert card.floor(model, 10, rate=1e30, bandwidth=1.0) == 4 * 10 * numbers
    assert card.floor(model, 10, rate=1e30, bandwidth=1.0, itemsize=2) == 2 * 10 * numbers


def test_the_workloads_of_a_gpu_are_large() -> None:
    names = card.workloads()
    assert "1x28x28 b1024: 32@5/2 64@3/2" in names
    assert len(names) == 10


@pytest.mark.parametrize(
    ("argument", "says"), [("device=gpu", "CuPy"), ("gpu", "in none of the names, which are")]
)
def test_the_benchmark_says_what_is_missing(argument: str, says: str) -> None:
    if not engine.missing_gpu():
        pytest.skip("there is a GPU")
    command = [sys.executable, "-m", "benchmarks.step", argument]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "file", sorted((REPOSITORY / "benchmarks").glob("*.py")), ids=lambda f: f.stem
)
def test_every_benchmark_can_be_imported(file: Path) -> None:
    importlib.import_module(f"benchmarks.{file.stem}")


def test_every_workload_has_a_source_and_can_be_built() -> None:
    assert len(workloads.WORKLOADS) >= 20
    for workload in workloads.WORKLOADS.values():
        assert workload.source
        model = convae.Autoencoder(workload.shape, workload.build_layers())
        assert model.code_size > 0


@pytest.mark.parametrize("problem", problems.PROBLEMS, ids=lambda problem: problem.name)
def test_every_single_operation_is_the_same_as_in_pytorch(problem: problems.Problem) -> None:
    small = problem._replace(examples=2)
    assert problem.source
    expected = problems.our_operation(small)()
    for who, make in operations.contestants(small).items():
        assert make(small)() == pytest.approx(expected, rel=1e-4), who


def halves(first: float) -> Callable[[], float]:
    return lambda: first / 2


def doubled(first: float) -> Callable[[], float]:
    return lambda: first * 2


def failing(first: float) -> Callable[[], float]:
    raise RuntimeError("no such luck")


def sleeping(first: float) -> Callable[[], float]:
    time.sleep(60)
    return lambda: first


def test_contestants_take_turns_and_those_that_cannot_are_named(monkeypatch, capsys) -> None:
    monkeypatch.setattr(turns, "TURN_SECONDS", 1e-6)
    monkeypatch.setattr(turns, "REST_SECONDS", 0.0)
    monkeypatch.setattr(turns, "BUSIEST", 1e9)
    monkeypatch.setattr(turns, "DOUBTFUL", 1e9)
    makers = {"halves": halves, "failing": failing, "doubled": doubled}
    times = turns.take_turns(makers, 1.0, 3.0)
    assert {who: found.values for who, found in times.items()} == {
        "halves": [1.5] * turns.CHECKED,
        "doubled": [6.0] * turns.CHECKED,
    }
    assert all(len(found.seconds) == turns.ROUNDS for found in times.values())
    assert "left out: failing: RuntimeError: no such luck" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="a stack: doubled and convae differ by 3"):
        comparison.check("a stack", {"convae": times["halves"], "doubled": times["doubled"]})


@pytest.mark.parametrize(("seconds", "count"), [([1.0], 7), ([1.0, 1.6], 22), ([1.0, 9.0], 28)])
def test_turns_are_taken_until_the_medians_are_sure(monkeypatch, seconds, count) -> None:
    """A quartile to the other is 0.46 of the median: sure to a tenth after 22."""
    taken = itertools.cycle(seconds)
    monkeypatch.setattr(turns.Contestant, "turn", lambda self: next(taken))
    monkeypatch.setattr(turns, "REST_SECONDS", 0.0)
    monkeypatch.setattr(turns, "ATTEMPTS", 1)
    monkeypatch.setattr(turns, "refuse", lambda part, times: None)
    assert len(turns.take_turns({"halves": halves}, 1.0, 3.0)["halves"].seconds) == count


def test_a_contestant_that_does_not_answer_is_not_waited_for(monkeypatch, capsys) -> None:
    monkeypatch.setattr(turns, "PATIENCE_SECONDS", 0.01)
    with turns.contestants({"sleeping": sleeping}, 1.0, 1.0) as found:
        assert not found
    assert "left out: sleeping: no answer within" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("part", "seconds", "says"),
    [
        (0.0, [1.0] * 9, ""),
        (0.3, [1.0] * 9, "others took 30% of the machine"),
        (float("nan"), [1.0] * 9, "others took nan%"),
        (0.0, [1.0] * 4 + [1.6] * 5, "its median may be off by 13% after 9 turns"),
        (0.0, [1.0] * 12 + [1.6] * 15, ""),
        (0.0, [float("nan")] * 9, "its median may be off by nan%"),
    ],
)
def test_a_busy_machine_is_refused(part: float, seconds: list[float], says: str) -> None:
    times = {"convae": turns.Times(seconds, 0.0, [])}
    if not says:
        turns.refuse(part, times)
        return
    with pytest.raises(turns.BusyError, match=says):
        turns.refuse(part, times)


def test_a_table_of_a_busy_machine_is_not_written(monkeypatch, tmp_path) -> None:
    def busy(seconds: float = 0.0) -> None:
        raise turns.BusyError("the machine is 50% busy with something else")

    monkeypatch.setattr(comparison, "check_idle", busy)
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    tiny = workloads.TINY
    with pytest.raises(SystemExit, match="50% busy with something else; nothing was written"):
        comparison.compare("step", "a command", [tiny], tiny, lambda _: {}, lambda _: 1, [])
    assert not list(tmp_path.iterdir())


def test_the_busy_part_is_what_others_took_of_all_cores() -> None:
    cores = os.cpu_count() or 1
    assert turns.busy_part((10.0, 5.0), (12.0, 5.0 + 2.0 * cores)) == 1.0
    assert turns.busy_part((10.0, 5.0), (12.0, 5.0)) == 0.0


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
    for who, build in quality.CONTESTANTS.items():
        config = quality.choose(quality.composed(words), data).config
        curve = quality.train(config, data, build, 4e-3)
        assert len(curve.errors) == len(curve.seconds) == 4
        assert curve.errors[-1] < curve.errors[0]
        ends[who] = curve.errors[0]
    assert ends["convae"] < 0.5 * min(ends["PyTorch, tied"], ends["PyTorch, untied"])


def test_everyones_better_learning_rate_counts() -> None:
    low, high = ([quality.Curve([0.5, end], [0.0, 1.0])] for end in (0.1, 0.2))
    curves = {("convae", 1.0): high, ("PyTorch", 1.0): high, ("PyTorch", 2.0): low}
    assert quality.best(curves) == {"convae": high, "PyTorch": low}


TINY = {
    "tiny": card.Workload(4, (1, 6, 6), "3@3/2"),
    "other": card.Workload(4, (1, 6, 6), "2@3/2"),
}


@pytest.mark.gpu
def test_the_probe_prints_a_line_for_each_measurement(cupy, monkeypatch, capsys) -> None:
    ceilings = card.ceilings
    monkeypatch.setattr(card, "workloads", lambda: TINY)
    monkeypatch.setattr(card, "PRECISIONS", ("float32", "bfloat16"))
    monkeypatch.setattr(card, "ceilings", lambda: ceilings(32, 1))
    monkeypatch.setattr(card, "TURN_SECONDS", 1e-4)
    monkeypatch.setattr(sys, "argv", ["card_probe"])
    card_probe.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line[0] == "{"]
    assert lines[0]["what"] == "card"
    steps = [line for line in lines if line["what"].startswith("step")]
    whos = [(line["what"], line["precision"], line["who"]) for line in steps]
    assert whos == [
        (f"step {name}", precision, who)
        for name in TINY
        for precision in ("float32", "bfloat16")
        for who in ("portable", "fast")
    ]
    assert all(line["seconds"] > 0 for line in steps)
    for portable, fast in zip(steps[::2], steps[1::2], strict=True):
        assert fast["losses"] == pytest.approx(portable["losses"], rel=0.02)
    assert not any("failed" in line for line in lines)
    ways = [line for line in lines if line["what"] == "ways"]
    assert any(line["error"] is not None for line in ways)


@pytest.mark.gpu
def test_a_row_of_the_gpu_table_compares_losses_first(cupy, monkeypatch) -> None:
    """With our own steps as PyTorch's; a planted fault is one that has done too many."""

    def rivals(done: int):
        def made(workload, precision: str, is_compiled: bool):
            for who, before in (("whole step in a graph", done), ("max-autotune", 0)):
                step = card.our_step(workload, precision, "portable")[1]
                for _ in range(before):
                    step()
                yield who, step

        return made

    monkeypatch.setattr(card, "workloads", lambda: TINY)
    monkeypatch.setattr(card, "TURN_SECONDS", 1e-4)
    monkeypatch.setattr(card, "their_steps", rivals(card.WARM_UP))
    name, precision, ours, theirs, *_ = step_gpu.row("tiny", "float32", 1e12, 1e12, True)
    assert (name, precision) == ("tiny", "float32")
    assert ours.startswith("fast ")
    assert [part.rpartition(" ")[0] for part in theirs.split(", ")] == [
        "whole step in a graph",
        "max-autotune",
    ]
    monkeypatch.setattr(card, "their_steps", rivals(card.WARM_UP + 9))
    with pytest.raises(AssertionError, match="whole step in a graph: losses differ"):
        step_gpu.row("tiny", "float32", 1e12, 1e12, True)


@pytest.mark.gpu
def test_the_probe_goes_on_after_a_failure_and_stops_in_time(cupy, monkeypatch, capsys) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("no such\nluck")

    monkeypatch.setattr(card, "workloads", lambda: TINY)
    for name in ("our_step", "ceilings", "launch_costs"):
        monkeypatch.setattr(card, name, fail)
    monkeypatch.setattr(sys, "argv", ["card_probe", "--only", "tiny"])
    card_probe.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    failed = [line["what"] for line in lines if line.get("failed") == "RuntimeError: no such"]
    assert failed == ["ceilings", "launches", *["step tiny"] * 3]
    monkeypatch.setattr(sys, "argv", ["card_probe", "--seconds", "0"])
    card_probe.main()
    assert '"left out": "ceilings"' in capsys.readouterr().out


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
