"""The training loop: a stopped run ends to the bit as one that was not stopped."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.summary.writer import event_file_writer

import convae
from convae.configuration import Config, OptimizerConfig, ScheduleConfig
from convae.data.splits import Splits
from convae.errors import DeviceError, DivergenceError, UserError
from convae.models.loading import BEST, load
from convae.report.tensorboard import Board
from convae.training import trainer as module
from convae.training.build import build_parts, build_trainer
from convae.training.signals import Interrupted, StopSignals
from convae.training.state import StateFolder, check_resumable, read_state, restore
from convae.training.trainer import Trainer
from tests.helpers import NOISE_CONFIG, curve, events, fit, noise_model, open_trainer

STEPS = 3 * 5


def changed(**values: Any) -> Config:
    return replace(NOISE_CONFIG, trainer=replace(NOISE_CONFIG.trainer, **values))


def stop_after(step: int, trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a signal arrive while a trainer does a certain step."""

    class Arriving(StopSignals):
        @property
        def received(self) -> int:
            return signal.SIGTERM if trainer.progress.step == step else 0

    monkeypatch.setattr(module, "StopSignals", Arriving)


def outcome(folder: Path, trainer: Trainer) -> tuple:
    """Everything that must not depend on interruptions."""
    board = events(folder)
    curves = {
        tag: [(event.step, event.value) for event in board.Scalars(tag)]
        for tag in ("loss/train", "loss/validation", "training/learning_rate")
    }
    pictures = [(i.step, i.encoded_image_string) for i in board.Images("reconstructions")]
    best = convae.load(folder).flat_parameters.tobytes()
    own = trainer.model.flat_parameters.tobytes()
    progress = trainer.progress.plain()
    del progress["run"]  # that of the configuration with which the run began
    return curves, pictures, best, own, progress


@pytest.fixture(scope="module")
def uninterrupted(noise, tmp_path_factory) -> tuple:
    folder = tmp_path_factory.mktemp("whole")
    return outcome(folder, fit(noise, folder))


def test_a_run_learns(uninterrupted) -> None:
    curves, pictures, best, own, progress = uninterrupted
    assert [step for step, _ in curves["loss/train"]] == list(range(2, STEPS, 2))
    validation = [loss for _, loss in curves["loss/validation"]]
    assert [step for step, _ in curves["loss/validation"]] == [0, 5, 10, 15]
    assert validation[-1] < validation[0]
    assert progress["best_loss"] == pytest.approx(min(validation), rel=1e-6)
    assert [step for step, _ in pictures] == [0, 10, 15]
    assert (best == own) == (progress["best_epoch"] == 3)


@pytest.mark.parametrize("stops", [range(1, STEPS), [1], [5], [7], [14], [2, 3, 9, 10, 11]])
def test_a_stopped_run_resumes_to_the_bit(
    noise, uninterrupted, tmp_path, monkeypatch, stops: Iterable[int]
) -> None:
    """Stopped after the given steps, within an epoch and at its end, and resumed each time."""
    # event files of one second are read in the order of this counter's digits
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(100))
    resume = False
    for stop in stops:
        with open_trainer(noise, tmp_path, resume=resume) as trainer:
            stop_after(stop, trainer, monkeypatch)
            with pytest.raises(Interrupted, match=rf"stopped after step {stop}\b") as caught:
                trainer.fit()
        assert caught.value.number == signal.SIGTERM
        resume = True
    monkeypatch.setattr(module, "StopSignals", StopSignals)
    assert outcome(tmp_path, fit(noise, tmp_path, resume=True)) == uninterrupted
    assert len(list(tmp_path.glob("state-*"))) == 2


def test_points_of_a_killed_process_are_not_shown_twice(noise, uninterrupted, tmp_path) -> None:
    """Killed at its end, resumed from the state after the first epoch."""
    fit(noise, tmp_path)
    fit(noise, tmp_path / "first", changed(epochs=1))
    for newer in tmp_path.glob("state-*"):
        newer.unlink()
    state = "state-000000005.safetensors"
    (tmp_path / "first" / state).rename(tmp_path / state)
    time.sleep(1.1)  # TensorBoard orders event files by the second in their names
    assert outcome(tmp_path, fit(noise, tmp_path, resume=True)) == uninterrupted


def test_a_stopped_run_with_an_average_resumes_to_the_bit(noise, tmp_path) -> None:
    config = changed(ema=0.5, panels_every=50)
    whole = fit(noise, tmp_path / "whole", config)
    fit(noise, tmp_path / "parts", changed(ema=0.5, panels_every=50, epochs=2))
    fit(noise, tmp_path / "parts", config, resume=True)
    for name in ("best.safetensors", "last.safetensors"):
        expected = (tmp_path / "whole" / name).read_bytes()
        assert (tmp_path / "parts" / name).read_bytes() == expected
    curves = [curve(tmp_path / name, "loss/validation") for name in ("whole", "parts")]
    assert curves[0] == curves[1]
    last = convae.load(tmp_path / "whole" / "last.safetensors")
    assert (last.flat_parameters == whole.average.parameters).all()
    assert (last.flat_parameters != whole.model.flat_parameters).any()


def test_a_run_without_improvement_stops_early_and_stays_stopped(noise, tmp_path) -> None:
    """With no learning at all, no epoch's loss is lower than that of the start."""
    patient = replace(changed(epochs=50, patience=2), optimizer=OptimizerConfig("sgd", 1e-30))
    progress = fit(noise, tmp_path, patient).progress
    assert (progress.epoch, progress.best_epoch) == (2, 0)
    assert fit(noise, tmp_path, patient, resume=True).progress.epoch == 2


def test_a_start_that_training_spoils_is_the_best_model(noise, tmp_path) -> None:
    wild = replace(changed(epochs=2), optimizer=OptimizerConfig("sgd", 1e4))
    with open_trainer(noise, tmp_path, wild) as trainer:
        start = {name: array.copy() for name, array in trainer.model.parameters.items()}
        progress = trainer.fit()
    assert (progress.epoch, progress.best_epoch) == (2, 0)
    best = load(tmp_path / BEST)
    assert all((best.parameters[name] == array).all() for name, array in start.items())
    assert (best.flat_parameters != trainer.model.flat_parameters).any()
    assert curve(tmp_path, "loss/validation")[0] == pytest.approx(progress.best_loss)


def test_a_long_epoch_is_saved_in_between(noise, tmp_path, monkeypatch) -> None:
    """At the default of 10 minutes, with a clock that runs 4 minutes from reading to reading."""
    seen: list[set[str]] = []
    with open_trainer(noise, tmp_path, changed(epochs=1)) as trainer:
        save = type(trainer.states).save

        def saving(self, *arguments):
            path = save(self, *arguments)
            seen.append(path.name)
            return path

        monkeypatch.setattr(type(trainer.states), "save", saving)
        minutes = iter(range(0, 100_000, 4))
        monkeypatch.setattr(module.time, "perf_counter", lambda: 60.0 * next(minutes))
        trainer.fit()
    assert seen[-1] == "state-000000005.safetensors"
    assert any(name < seen[-1] for name in seen)


def test_an_epoch_in_progress_keeps_its_batches(noise, tmp_path, monkeypatch) -> None:
    """Half an epoch of batches of 8 and half of batches of 4 would be neither."""
    with open_trainer(noise, tmp_path) as trainer:
        stop_after(2, trainer, monkeypatch)
        with pytest.raises(Interrupted):
            trainer.fit()
    with pytest.raises(UserError, match=r"resume: .* epoch of 5 steps, which now has 9"):
        fit(noise, tmp_path, changed(batch_size=4), resume=True)


def test_a_diverged_model_is_not_saved(noise, tmp_path) -> None:
    fit(noise, tmp_path, changed(epochs=1))
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.safetensors")}
    with open_trainer(noise, tmp_path, resume=True) as trainer:
        trainer.model.parameters["0.kernel"][...] = np.nan
        with pytest.raises(DivergenceError, match="best model, of epoch 1, and the last state"):
            trainer.fit()
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.safetensors")} == before


def test_a_full_disk_keeps_what_was_saved(noise, tmp_path, request) -> None:
    fit(noise, tmp_path, changed(epochs=1))
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.safetensors")}
    request.getfixturevalue("full_disk")
    with pytest.raises(OSError, match="No space left"):
        fit(noise, tmp_path, resume=True)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.safetensors")} == before


def test_what_follows_an_epoch_may_end_the_run(noise, tmp_path) -> None:
    seen: list[tuple[int, float]] = []

    def after_epoch(epoch: int, loss: float) -> bool:
        seen.append((epoch, loss))
        return epoch == 2

    with open_trainer(noise, tmp_path, changed(epochs=5, checkpoint_every=5)) as trainer:
        trainer.after_epoch = after_epoch
        progress = trainer.fit()
    assert trainer.stopped
    assert progress.epoch == 2
    losses = curve(tmp_path, "loss/validation")
    assert seen == [(1, pytest.approx(losses[1])), (2, pytest.approx(losses[2]))]
    assert convae.training.state.read_state(tmp_path)[1]["progress"]["epoch"] == 2


def test_another_schedule_after_a_resume_leaves_states_that_can_be_read(noise, tmp_path) -> None:
    fit(noise, tmp_path, replace(NOISE_CONFIG, schedule=ScheduleConfig("constant")))
    longer = changed(epochs=5)
    with open_trainer(noise, tmp_path, longer, resume=True) as trainer:
        trainer._save()
        assert read_state(tmp_path)[1]["progress"]["schedule"].keys() == {
            "lowest",
            "waited",
            "current",
        }
        assert read_state(tmp_path)[1]["progress"]["step"] == trainer.progress.step


def test_another_models_file_is_replaced(noise, tmp_path) -> None:
    expected = convae.load(fit_in(noise, tmp_path)).flat_parameters
    other = convae.Autoencoder((1, 6, 6), [convae.Layer(7, 3), convae.Layer(3, "input")])
    other.save(tmp_path / "best.safetensors")
    fit(noise, tmp_path, resume=True)
    assert (convae.load(tmp_path).flat_parameters == expected).all()


def fit_in(noise: Splits, folder: Path) -> Path:
    fit(noise, folder)
    return folder


def test_a_signal_during_the_last_validation_is_not_lost(noise, tmp_path, monkeypatch) -> None:
    validate = Trainer._validate

    def interrupted(self: Trainer, epoch: int) -> float:
        if epoch == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return validate(self, epoch)

    monkeypatch.setattr(Trainer, "_validate", interrupted)
    with pytest.raises(Interrupted, match="stopped after step 15"):
        fit(noise, tmp_path)
    assert read_state(tmp_path)[1]["progress"]["epoch"] == 3


def test_patience_is_counted_from_a_change_of_the_loss(noise, tmp_path) -> None:
    config = changed(patience=2)
    fit(noise, tmp_path, config)
    with open_trainer(
        noise, tmp_path, replace(config, trainer=changed(epochs=9, patience=2).trainer), True
    ) as t:
        check_resumable(t.progress, noise, "bce")
        assert t.progress.best_epoch == 0
        assert not t._patience_exhausted()
        t.progress.epoch += 2
        assert t._patience_exhausted()


def test_another_loss_without_epochs_left_is_refused(noise, tmp_path) -> None:
    fit(noise, tmp_path)
    model, parts = noise_model(), build_parts(NOISE_CONFIG)
    progress = restore(*read_state(tmp_path), model, parts.optimizer)
    check_resumable(progress, noise, "bce")
    states = StateFolder(tmp_path, asdict(NOISE_CONFIG))
    with Board(tmp_path, after=15) as board, pytest.raises(UserError, match="no epochs are left"):
        build_trainer(NOISE_CONFIG, model, parts, noise, board, states, progress)


@pytest.mark.gpu
def test_a_stopped_run_on_a_gpu_resumes_to_the_bit(cupy, noise, tmp_path, monkeypatch) -> None:
    """Within an epoch and behind one; the optimizer's moments are those of the recorded step."""
    config = replace(changed(ema=0.5), device="gpu", gpu_engine="fast")
    whole = fit(noise, tmp_path / "whole", config)
    resume = False
    for stop in (2, 5, 8):
        with open_trainer(noise, tmp_path / "parts", config, resume) as trainer:
            stop_after(stop, trainer, monkeypatch)
            with pytest.raises(Interrupted):
                trainer.fit()
        resume = True
    monkeypatch.setattr(module, "StopSignals", StopSignals)
    parts = fit(noise, tmp_path / "parts", config, resume=True)
    assert (parts.model.flat_parameters == whole.model.flat_parameters).all()
    for name in ("best.safetensors", "last.safetensors"):
        expected = (tmp_path / "whole" / name).read_bytes()
        assert (tmp_path / "parts" / name).read_bytes() == expected


@pytest.mark.gpu
@pytest.mark.parametrize("saved", [False, True])
def test_a_device_that_dies_is_named_and_states_are_kept(
    cupy, noise, tmp_path, monkeypatch, saved: bool
) -> None:
    """As where an illegal address has spoiled the process: every further call fails."""
    lost = cupy.cuda.runtime.CUDARuntimeError(700)
    config = replace(NOISE_CONFIG, device="gpu", gpu_engine="portable")
    with open_trainer(noise, tmp_path, config) as trainer:
        step, failing = trainer.step.portable, 7 if saved else 2

        def fail(*arguments: object) -> object:
            if trainer.progress.step == failing:
                raise lost
            return step(*arguments)

        monkeypatch.setattr(trainer.step, "portable", fail)
        says = r"the GPU failed in epoch \d, by step \d: cudaErrorIllegalAddress"
        with pytest.raises(DeviceError, match=says) as caught:
            trainer.fit()
    kept = f"states in {tmp_path} are kept" if saved else "nothing was saved before"
    assert kept in str(caught.value)
    assert bool(list(tmp_path.glob("state-*"))) == saved
