"""States on disk: written whole, read back, and refused where they do not fit."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from math import inf
from pathlib import Path

import numpy as np
import pytest

import convae
from convae.errors import UserError
from convae.models import checkpoint
from convae.training.progress import LossSum, Progress
from convae.training.state import StateFolder, has_state, read_state, restore
from tests.helpers import NOISE_CONFIG, noise_model


def optimizer_after(steps: int, model: convae.Autoencoder) -> convae.Adam:
    optimizer, rng = convae.Adam(0.01), np.random.default_rng(steps)
    for _ in range(steps):
        gradient = rng.standard_normal(model.flat_parameters.size, dtype="float32")
        optimizer.update(model.flat_parameters, gradient)
    return optimizer


CONFIGURATION = asdict(NOISE_CONFIG)


def progress_at(step: int) -> Progress:
    data = dict.fromkeys(("train", "validation", "test"), "digest")
    progress = replace(Progress.fresh(0), step=step, run="0123456789abcdef", data=data, loss="mse")
    progress.steps_per_epoch = 5
    progress.whole.add(np.float64(0.5), 8)
    progress.schedule = {"lowest": 0.5, "waited": 1, "current": 0.25}
    return progress


@pytest.fixture
def folder(tmp_path) -> Path:
    """A run's folder with the states after 5 and after 10 steps."""
    states = StateFolder(tmp_path, CONFIGURATION)
    for step in (5, 10):
        model = noise_model()
        states.save(model, optimizer_after(step, model), progress_at(step))
    return tmp_path


def test_everything_is_restored(folder: Path) -> None:
    trained = noise_model()
    expected = optimizer_after(10, trained)
    model, optimizer = noise_model(), convae.Adam(0.01)
    arrays, description = read_state(folder)
    assert description["configuration"] == CONFIGURATION
    assert restore(arrays, description, model, optimizer) == progress_at(10)
    for name, array in model.parameters.items():
        assert (array == trained.parameters[name]).all(), name
    assert optimizer.steps == 10
    assert optimizer.state.keys() == expected.state.keys()
    for name, vector in expected.state.items():
        assert (optimizer.state[name] == vector).all(), name


def test_the_average_is_restored(tmp_path) -> None:
    model, progress = noise_model(), progress_at(5)
    progress.average = np.full(model.flat_parameters.size, 7.0, "float32")
    averaging = asdict(replace(NOISE_CONFIG, trainer=replace(NOISE_CONFIG.trainer, ema=0.9)))
    StateFolder(tmp_path, averaging).save(model, optimizer_after(5, model), progress)
    found = restore(*read_state(tmp_path), model, convae.Adam())
    assert (found.average == 7).all()


def test_the_newest_states_are_kept(folder: Path) -> None:
    model = noise_model()
    states = StateFolder(folder, CONFIGURATION, keep=2)
    path = states.save(model, convae.Adam(), progress_at(15))
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["state-000000010.safetensors", "state-000000015.safetensors"]
    assert path.name == names[-1]
    replace(states, keep=1).save(model, convae.Adam(), progress_at(20))
    assert [path.name for path in folder.iterdir()] == ["state-000000020.safetensors"]
    states.drop()
    assert not has_state(folder)


def test_a_damaged_newer_state_does_not_push_out_the_one_just_written(folder: Path) -> None:
    (folder / "state-000000099.safetensors").write_text("damaged")
    states = StateFolder(folder, CONFIGURATION, keep=1)
    model = noise_model()
    path = states.save(model, optimizer_after(11, model), progress_at(11))
    assert path.is_file()
    assert read_state(folder)[1]["progress"]["step"] == 11


def test_progress_is_plain_values_and_back() -> None:
    progress = progress_at(5)
    assert progress.best_loss == inf
    assert Progress.from_plain(json.loads(json.dumps(progress.plain()))) == progress
    assert Progress.fresh(1).order != Progress.fresh(2).order


def test_loss_sums_weigh_every_image_alike() -> None:
    total = LossSum()
    total.add(np.asarray(1.0), 3)
    total.add(np.asarray(5.0), 1)
    assert total.mean() == 2
    assert asdict(total)["images"] == 4


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
def test_a_damaged_state_is_passed_over(folder: Path, caplog, kind: str) -> None:
    older, newest = sorted(folder.glob("state-*"))
    damage(newest, kind)
    _, description = read_state(folder)
    assert description["progress"]["step"] == 5
    assert str(newest) in caplog.text
    assert "is stepped over" in caplog.text
    damage(older, kind)
    with pytest.raises(UserError, match=r"resume: all states in .* are damaged"):
        read_state(folder)
    assert has_state(folder)


def test_other_files_are_passed_over(folder: Path, caplog) -> None:
    checkpoint.write(folder / "state-999999999.safetensors", {}, {"x": 1})
    (folder / "state-of-affairs.safetensors").write_text("?")
    assert read_state(folder)[1]["progress"] == progress_at(10).plain()
    assert "state-999999999.safetensors is stepped over: its layout is None" in caplog.text


def test_a_folder_without_states_is_refused(tmp_path) -> None:
    assert not has_state(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"resume: .* holds no state of a run"):
        read_state(tmp_path / "nowhere")


def test_a_state_of_something_else_is_refused(folder: Path) -> None:
    arrays, description = read_state(folder)
    other = convae.Autoencoder((1, 6, 6), [convae.Layer(5, 3)])
    with pytest.raises(UserError, match=r"resume: .* another model"):
        restore(arrays, description, other, convae.Adam())
    layers = noise_model().configuration()["layers"]
    linear = [{**layer, "activation": "identity"} for layer in layers]
    for what, such in {
        "layers": convae.Autoencoder((1, 6, 6), linear),
        "output_activation": convae.Autoencoder((1, 6, 6), layers, "tanh"),
    }.items():
        with pytest.raises(UserError, match=rf"resume: .* another model\.{what}; do not change it"):
            restore(arrays, description, such, convae.Adam())
    double = convae.Autoencoder((1, 6, 6), noise_model().configuration()["layers"], dtype="float64")
    with pytest.raises(UserError, match=r"resume: the state is of float32; do not change dtype"):
        restore(arrays, description, double, convae.Adam())
    with pytest.raises(UserError, match=r"resume: .* another optimizer"):
        restore(arrays, description, noise_model(), convae.SGD())


@pytest.mark.parametrize(("layout", "says"), [(1, "an older version"), (99, "update convae")])
def test_a_state_of_another_version_says_so(folder: Path, layout: int, says: str) -> None:
    arrays, description = read_state(folder)
    checkpoint.write(
        folder / "state-000000010.safetensors", arrays, {**description, "layout": layout}
    )
    with pytest.raises(UserError, match=says):
        read_state(folder)


def test_a_file_of_another_format_says_so(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    noise_model().save(folder / "model.safetensors")
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"written by a newer version of convae; update convae"):
        convae.load(folder / "model.safetensors")


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop", "dangling"])
def test_what_is_no_file_is_stepped_over_and_stays(folder: Path, kind: str) -> None:
    newest = folder / "state-000000099.safetensors"
    if kind == "folder":
        newest.mkdir()
    elif kind == "pipe":
        os.mkfifo(newest)
    else:
        newest.symlink_to(newest.name if kind == "loop" else "nowhere")
    assert read_state(folder)[1]["progress"]["step"] == 10
    assert os.path.lexists(newest)


def test_a_full_disk_loses_no_earlier_state(folder: Path, full_disk) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(OSError, match="No space left"):
        StateFolder(folder, CONFIGURATION).save(noise_model(), convae.Adam(), progress_at(15))
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
