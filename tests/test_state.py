"""A run that was stopped or killed goes on to the bit as if it had not been."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tensorboard.summary.writer import event_file_writer
from tqdm import tqdm

import convae
from convae.configuration import (
    Config,
    CorruptionConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainerConfig,
)
from convae.data.splits import InMemory, Splits
from convae.models import checkpoint
from convae.training import trainer
from convae.training.signals import Interrupted, StopSignals
from convae.training.state import read_state, restore, save_state
from tests.conftest import REPOSITORY
from tests.test_train import events, run

STEPS = 3 * 5


@pytest.fixture(scope="module")
def data() -> Splits:
    rng = np.random.default_rng(0)
    parts = (InMemory(rng.integers(0, 256, (n, 1, 6, 6), dtype=np.uint8)) for n in (33, 8, 8))
    return Splits("noise", *parts)


def fresh(optimizer: str = "adam"):
    model = convae.Autoencoder((1, 6, 6), [convae.Layer(4, 3, stride=2), convae.Layer(3, "input")])
    return model, {"adam": convae.Adam, "sgd": convae.SGD}[optimizer](0.01)


CONFIG = Config(
    trainer=TrainerConfig(epochs=3, batch_size=8, log_every=2, panels_every=2, probe=4),
    corruption=CorruptionConfig("gaussian", 0.2),
    schedule=ScheduleConfig("plateau", warmup=4, patience=0),
    optimizer=OptimizerConfig("adam", 0.01),
)


def outcome(folder: Path, model: convae.Autoencoder, progress) -> tuple:
    """Everything that must not depend on interruptions."""
    board = events(folder)
    curves = {
        tag: [(event.step, event.value) for event in board.Scalars(tag)]
        for tag in ("loss/train", "loss/validation", "learning_rate")
    }
    pictures = [(i.step, i.encoded_image_string) for i in board.Images("reconstructions")]
    best = convae.load(folder).flat_parameters.tobytes()
    plain = progress.plain()
    return curves, pictures, best, model.flat_parameters.tobytes(), plain


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory) -> tuple:
    folder = tmp_path_factory.mktemp("whole")
    model, optimizer = fresh()
    return outcome(folder, model, trainer.fit(model, optimizer, data, CONFIG, folder))


@pytest.mark.parametrize("stop", [range(1, STEPS), [1], [5], [7], [14], [2, 3, 9, 10, 11]])
def test_a_stopped_run_goes_on_to_the_bit(
    data, uninterrupted, tmp_path, monkeypatch, stop: list[int]
) -> None:
    """Stopped after the given steps, within an epoch and at its end, and resumed each time."""
    stops = list(stop)
    bars: list[tqdm] = []

    class StopAt(StopSignals):
        @property
        def received(self) -> int:
            return signal.SIGTERM if stops and bars[-1].n == stops[0] else 0

    def watched(**how: object) -> tqdm:
        bars.append(tqdm(**{**how, "disable": False}))
        return bars[-1]

    # event files of one second are read in the order of this counter's digits
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(100))
    monkeypatch.setattr(trainer, "tqdm", watched)
    monkeypatch.setattr(trainer, "StopSignals", StopAt)
    progress = None
    while stops:
        model, optimizer = fresh()
        if progress is not None:
            progress = restore(*read_state(tmp_path), model, optimizer)
        with pytest.raises(Interrupted, match=rf"after step {stops[0]}; .*resume="):
            trainer.fit(model, optimizer, data, CONFIG, tmp_path, progress)
        progress = stops.pop(0)
    model, optimizer = fresh()
    progress = restore(*read_state(tmp_path), model, optimizer)
    progress = trainer.fit(model, optimizer, data, CONFIG, tmp_path, progress)
    assert outcome(tmp_path, model, progress) == uninterrupted
    assert len(list(tmp_path.glob("state-*"))) == 2


def test_a_run_without_improvement_stops_and_stays_stopped(data, tmp_path) -> None:
    """With no learning at all, the first epoch's loss is never undercut."""
    patient = replace(CONFIG, trainer=replace(CONFIG.trainer, epochs=50, patience=2))
    patient = replace(patient, optimizer=OptimizerConfig("sgd", 1e-30))
    model, optimizer = fresh("sgd")
    progress = trainer.fit(model, optimizer, data, patient, tmp_path)
    assert (progress.epoch, progress.best_epoch) == (3, 1)
    again = trainer.fit(model, optimizer, data, patient, tmp_path, progress)
    assert again.epoch == 3


def test_points_of_a_killed_process_are_not_shown_twice(data, uninterrupted, tmp_path) -> None:
    """Killed after its second epoch, resumed from the state after the first."""
    model, optimizer = fresh()
    trainer.fit(model, optimizer, data, CONFIG, tmp_path)
    state = tmp_path / "state-000000005.safetensors"
    assert not state.exists()
    short = replace(CONFIG, trainer=replace(CONFIG.trainer, epochs=1))
    model, optimizer = fresh()
    trainer.fit(model, optimizer, data, short, tmp_path / "first")
    for newer in tmp_path.glob("state-*"):
        newer.unlink()
    (tmp_path / "first" / state.name).rename(state)
    model, optimizer = fresh()
    progress = restore(*read_state(tmp_path), model, optimizer)
    time.sleep(1.1)  # TensorBoard orders event files by the second in their names
    progress = trainer.fit(model, optimizer, data, CONFIG, tmp_path, progress)
    assert outcome(tmp_path, model, progress) == uninterrupted


def damage(path: Path, kind: str) -> None:
    content = bytearray(path.read_bytes())
    if kind == "empty":
        content.clear()
    elif kind == "truncated":
        del content[len(content) // 2 :]
    elif kind == "bit flipped":
        content[-5] ^= 1
    else:
        content[:] = b"foreign"
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["empty", "truncated", "bit flipped", "foreign"])
def test_a_damaged_state_is_stepped_over(data, tmp_path, caplog, kind: str) -> None:
    model, optimizer = fresh()
    trainer.fit(model, optimizer, data, CONFIG, tmp_path)
    older, newest = sorted(tmp_path.glob("state-*"))
    damage(newest, kind)
    _, description = read_state(tmp_path)
    assert description["progress"]["step"] == 10
    assert str(newest) in caplog.text
    assert "trying the state before it" in caplog.text
    damage(older, kind)
    with pytest.raises(ValueError, match=r"resume: all states in .* are damaged"):
        read_state(tmp_path)


def test_a_state_of_something_else_is_refused(data, tmp_path) -> None:
    model, optimizer = fresh()
    progress = trainer.fit(model, optimizer, data, CONFIG, tmp_path)
    state = read_state(tmp_path)
    other = convae.Autoencoder((1, 6, 6), [convae.Layer(5, 3)])
    with pytest.raises(ValueError, match="belongs to another model"):
        restore(*state, other, convae.Adam())
    arrays, description = state
    with pytest.raises(ValueError, match="another version of convae"):
        restore(arrays, {**description, "layout": 1}, *fresh("adam"))
    with pytest.raises(ValueError, match="another optimizer's"):
        restore(*state, *fresh("sgd"))
    with pytest.raises(FileNotFoundError, match="holds no state of a run"):
        read_state(tmp_path / "nowhere")
    checkpoint.write(tmp_path / "state-999999999.safetensors", {}, {"x": 1})
    assert read_state(tmp_path)[1]["progress"] == progress.plain()


def test_a_full_disk_loses_no_earlier_state(data, tmp_path, monkeypatch) -> None:
    model, optimizer = fresh()
    progress = trainer.fit(model, optimizer, data, CONFIG, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.glob("state-*")}

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    progress.step += 1
    with pytest.raises(OSError, match="No space left"):
        save_state(tmp_path, model, optimizer, progress, {})
    assert {path: path.read_bytes() for path in tmp_path.glob("state-*")} == before


LONG = ("trainer.epochs=80", "dataset.limit=600", "trainer.panels_every=20")


def test_a_run_killed_again_and_again_ends_as_one_left_alone(tmp_path) -> None:
    """SIGKILL, SIGTERM and SIGINT to a real process at random moments."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = run(*LONG, f"hydra.run.dir={whole}")
    assert done.returncode == 0, done.stderr
    rng = random.Random(0)
    arguments = [*LONG, f"hydra.run.dir={killed}"]
    kills = 0
    while True:
        process = subprocess.Popen(
            [sys.executable, "train.py", *arguments],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if kills < 6:
            number = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
            wanted = rng.randrange(1, 6)  # epochs to see before it is killed
            for line in process.stdout:
                wanted -= line.startswith("epoch ")
                if wanted == 0:
                    break
            time.sleep(rng.uniform(0, 0.1))  # far from the run's end, wherever it is then
            process.send_signal(number)
            _, errors = process.communicate()
            if number == signal.SIGKILL:
                assert process.returncode == -number
            else:
                assert process.returncode == 128 + number
                assert f"resume={killed}" in errors
            kills += 1
        else:
            _, errors = process.communicate()
            assert process.returncode == 0, errors
            break
        arguments = [f"resume={killed}"]
    for name in ("best.safetensors", "last.safetensors"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    for tag in ("loss/train", "loss/validation"):
        values = [[(e.step, e.value) for e in events(f).Scalars(tag)] for f in (whole, killed)]
        assert values[0] == values[1]


def test_a_finished_run_can_be_prolonged_and_says_what_changed(tmp_path) -> None:
    folder = tmp_path / "run"
    short = ("dataset.limit=100", "trainer.epochs=1", f"hydra.run.dir={folder}")
    assert run(*short).returncode == 0
    done = run(f"resume={folder}", "trainer.epochs=2")
    assert done.returncode == 0, done.stderr
    assert "going on with trainer.epochs=2" in done.stdout
    assert "epoch 2/2" in done.stdout
    assert "epoch 1/2" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["resume=/no/such/folder"], "'/no/such/folder' holds no state of a run"),
        (["resume=configs"], "holds no state of a run"),
    ],
)
def test_what_cannot_go_on_says_so(arguments: list[str], says: str) -> None:
    done = run(*arguments, "hydra.output_subdir=null", "hydra/job_logging=disabled")
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_an_epoch_under_way_keeps_its_batches(data, tmp_path, monkeypatch) -> None:
    """Half an epoch of batches of 8 and half of batches of 4 would be neither."""

    class StopAtOnce(StopSignals):
        received = signal.SIGTERM

    model, optimizer = fresh()
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "StopSignals", StopAtOnce)
        with pytest.raises(Interrupted):
            trainer.fit(model, optimizer, data, CONFIG, tmp_path)
    progress = restore(*read_state(tmp_path), model, optimizer)
    other = replace(CONFIG, trainer=replace(CONFIG.trainer, batch_size=4))
    with pytest.raises(ValueError, match=r"resume: .* epoch of 5 steps, which now has 9"):
        trainer.fit(model, optimizer, data, other, tmp_path, progress)


def test_a_lost_model_is_not_saved(data, tmp_path) -> None:
    model, optimizer = fresh()
    trainer.fit(
        model, optimizer, data, replace(CONFIG, trainer=replace(CONFIG.trainer, epochs=1)), tmp_path
    )
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.safetensors")}
    progress = restore(*read_state(tmp_path), model, optimizer)
    model.parameters["0.kernel"][...] = np.nan
    with pytest.raises(FloatingPointError, match="best model, of epoch 1, and the last state"):
        trainer.fit(model, optimizer, data, CONFIG, tmp_path, progress)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.safetensors")} == before
