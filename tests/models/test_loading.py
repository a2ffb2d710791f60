"""Models saved and loaded."""

from __future__ import annotations

import pytest

import convae
from convae import Layer
from convae.models import checkpoint
from convae.training.progress import Progress
from convae.training.state import StateFolder
from tests.helpers import ShortStorage


def test_save_and_load(tmp_path, rng) -> None:
    layers = [
        Layer(3, [3, 2], stride=(2, 1), padding=[[1, 2], [0, 1]], sharing="local"),
        Layer(4, "input", tied=False, activation="identity"),
    ]
    model = convae.Autoencoder((1, 8, 7), layers, output_activation="tanh", seed=3)
    path = tmp_path / "new folder" / "model.safetensors"
    model.save(path)
    x = rng.random((2, 1, 8, 7), dtype="float32")
    loaded = convae.load(path)
    assert (loaded.reconstruct(x) == model.reconstruct(x)).all()
    assert loaded.configuration() == convae.load(path).configuration()
    assert [entry.name for entry in path.parent.iterdir()] == ["model.safetensors"]
    (tmp_path / "best.safetensors").write_bytes(path.read_bytes())
    assert (convae.load(tmp_path).flat_parameters == model.flat_parameters).all()


def test_a_loaded_model_computes_on_the_backend_that_it_is_given(tmp_path) -> None:
    convae.Autoencoder((1, 8, 8), [Layer(2, 3)]).save(tmp_path / "best.safetensors")
    backend = ShortStorage()
    assert convae.load(tmp_path, backend=backend).backend is backend


def test_states_and_other_files_are_refused(tmp_path) -> None:
    model = convae.Autoencoder((1, 8, 8), [Layer(2, 3)])
    state = StateFolder(tmp_path, {}).save(model, convae.Adam(), Progress.fresh(0))
    with pytest.raises(ValueError, match=r"path: .* is a run's state; load the run's folder"):
        convae.load(state)
    checkpoint.write(tmp_path / "other.safetensors", {}, {"something": "else"})
    with pytest.raises(ValueError, match=r"path: .* holds no model"):
        convae.load(tmp_path / "other.safetensors")
    with pytest.raises(FileNotFoundError, match=r"path: there is no file .*best.safetensors"):
        convae.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="path: there is no file"):
        convae.load(tmp_path / "nowhere")


def test_arrays_of_another_model_are_refused(tmp_path) -> None:
    model = convae.Autoencoder((1, 8, 8), [Layer(2, 3)])
    path = tmp_path / "model.safetensors"
    arrays = {name: array[:1] for name, array in model.parameters.items()}
    checkpoint.write(path, arrays, {"model": model.configuration()})
    with pytest.raises(
        ValueError, match=r"path: .*is damaged.*: its arrays do not match the model"
    ):
        convae.load(path)
