"""The model's face: encoding and decoding, parameters, files, and arguments that do not fit."""

from __future__ import annotations

import copy
import pickle
from types import ModuleType

import numpy as np
import pytest
import torch

import convae
from convae import Layer, engine
from tests.helpers import STACKS, Untied, build, error


def test_reconstruct_is_decode_of_encode_and_equals_the_copy(xp: ModuleType, rng) -> None:
    model = build(xp, (2, 6, 5), STACKS[3])
    x = rng.random((4, 2, 6, 5))
    R = model.reconstruct(xp.asarray(x))
    H = model.encode(xp.asarray(x))
    assert H.shape == (4, *model.code_shape)
    assert (model.decode(H) == R).all()
    assert error(R, Untied(model).reconstruct(torch.tensor(x)).detach().numpy()) < 1e-12


@pytest.mark.parametrize("loss", ["mse", "bce", "l1", "ssim"])
def test_evaluation_is_loss_and_reconstruction(xp: ModuleType, rng, loss: str) -> None:
    model = build(xp, (2, 6, 5), STACKS[3], loss=loss)
    x, target = rng.random((2, 4, 2, 6, 5))
    J, R = map(engine.to_numpy, model.evaluate(xp.asarray(x), xp.asarray(target)))
    oracle = Untied(model)
    expected = oracle.loss(torch.tensor(x), torch.tensor(target)).item()
    assert pytest.approx(expected, rel=1e-12) == J
    assert error(R, oracle.reconstruct(torch.tensor(x)).detach().numpy()) < 1e-12


def test_codes_end_with_the_models_code(rng) -> None:
    model = build(np, (2, 6, 5), STACKS[3])
    x = rng.random((4, 2, 6, 5))
    found = model.codes(x)
    assert [H.shape[1:] for H in found] == [layer.output_shape for layer in model.layers]
    assert (found[-1] == model.encode(x)).all()


def test_encode_and_decode_do_not_change_their_arguments(rng) -> None:
    model = build(np, (2, 6, 5), STACKS[2], output_activation="identity")
    x = rng.random((4, 2, 6, 5))
    before = x.copy()
    H = model.encode(x)
    code = H.copy()
    model.decode(H)
    model.loss_and_gradients(x)
    assert (x == before).all()
    assert (code == H).all()


def test_initial_parameters_depend_on_the_seed_alone() -> None:
    models = [convae.Autoencoder((1, 8, 8), STACKS[2], seed=seed) for seed in (7, 7, 8)]
    first, same, other = (model.flat_parameters for model in models)
    assert (first == same).all()
    assert (first != other).any()


def test_parameters_are_live_and_cannot_be_replaced(rng) -> None:
    model = build(np, (2, 6, 5), STACKS[2])
    x = rng.random((2, 2, 6, 5))
    before = model.reconstruct(x)
    model.parameters["0.visible_bias"][...] += 1
    assert (model.reconstruct(x) > before).all()
    with pytest.raises(TypeError):
        model.parameters["0.visible_bias"] = np.zeros(2)


def test_gradients_belong_to_the_caller(rng) -> None:
    model = build(np, (2, 6, 5), STACKS[2])
    _, first = model.loss_and_gradients(rng.random((2, 2, 6, 5)))
    kept = {name: array.copy() for name, array in first.items()}
    model.loss_and_gradients(rng.random((2, 2, 6, 5)))
    assert all((first[name] == kept[name]).all() for name in kept)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: convae.Autoencoder((2, 8, 8), []), ValueError, "layers: none given"),
        (lambda: convae.Autoencoder((2, 8, 8), [3]), TypeError, "layers: 3 is not a Layer"),
        (
            lambda: convae.Autoencoder((1, 8, 8), STACKS[1][0]),
            TypeError,
            "layers: Layer.* is not a l",
        ),
        (lambda: convae.Autoencoder(8, STACKS[1]), ValueError, "input_shape: 8 is not"),
        (lambda: convae.TrainingStep(None, convae.Adam()), TypeError, "model: None is not a conv"),
        (lambda: convae.Autoencoder((8,), STACKS[1]), ValueError, r"input_shape: \(8,\)"),
        (lambda: convae.Autoencoder((1, 8, 8), STACKS[1], "rel"), ValueError, "output_activation"),
        (lambda: convae.Autoencoder((1, 8, 8), STACKS[1], loss="l3"), ValueError, "loss: 'l3'"),
        (
            lambda: convae.Autoencoder((1, 8, 8), STACKS[1], "tanh", "bce"),
            ValueError,
            "loss: 'bce' .*sigmoid",
        ),
        (lambda: convae.Autoencoder((1, 8, 8), STACKS[1], dtype="int8"), ValueError, "dtype"),
        (lambda: convae.Autoencoder((1, 8, 8), STACKS[1], seed=-1), ValueError, "seed: -1"),
        (lambda: convae.Autoencoder((1, 8, 8), STACKS[1], device="tpu"), ValueError, "device"),
    ],
)
def test_bad_models_are_refused_by_name(call, error, says: str) -> None:
    with pytest.raises(error, match=says):
        call()


@pytest.mark.parametrize(
    ("x", "error", "says"),
    [
        (np.zeros((2, 1, 8, 8), "float64"), TypeError, "x: dtype float64, but the model's is flo"),
        (np.zeros((2, 1, 8, 8), "uint8"), TypeError, r"astype\('float32'\) / 255"),
        (np.zeros((1, 8, 8), "float32"), ValueError, r"x: shape .*\(N, 1, 8, 8\)"),
        ([[0.0]], TypeError, "x: got builtins.list"),
    ],
)
def test_bad_inputs_are_refused_by_name(x, error, says: str) -> None:
    model = convae.Autoencoder((1, 8, 8), STACKS[1])
    for call in (model.encode, model.reconstruct, model.loss_and_gradients):
        with pytest.raises(error, match=says):
            call(x)
    good = np.zeros((2, 1, 8, 8), "float32")
    with pytest.raises(ValueError, match="target: shape"):
        model.loss_and_gradients(good, good[:1])


def test_asking_for_a_gpu_that_is_missing_is_an_error() -> None:
    if not engine.missing_gpu():
        pytest.skip("there is a GPU")
    with pytest.raises(RuntimeError, match="'gpu' was asked for, but CuPy"):
        convae.Autoencoder((1, 8, 8), STACKS[1], device="gpu")
    assert convae.Autoencoder((1, 8, 8), STACKS[1], device="auto").device == "cpu"


def test_a_model_computes_on_the_backend_that_it_is_given(rng) -> None:
    class Counting(engine.ArrayBackend):
        calls = 0

        def c(self, *arguments):
            self.calls += 1
            return super().c(*arguments)

    backend = Counting()
    model = convae.Autoencoder((2, 6, 5), STACKS[2], backend=backend)
    x = rng.random((4, 2, 6, 5), dtype="float32")
    R = model.reconstruct(x)
    assert model.backend is backend
    assert backend.calls == 2
    assert error(R, convae.Autoencoder((2, 6, 5), STACKS[2]).reconstruct(x)) < 1e-6


def test_copies_and_pickles_are_models_of_their_own(rng) -> None:
    model = build(np, (2, 6, 5), STACKS[2])
    x = rng.random((2, 2, 6, 5))
    R = model.reconstruct(x)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert (twin.reconstruct(x) == R).all()
        twin.parameters["0.kernel"][...] = 0
        assert (model.reconstruct(x) == R).all()
        assert (twin.reconstruct(x) != R).any()


def test_repr_says_what_the_model_is() -> None:
    model = convae.Autoencoder((1, 8, 8), [Layer(4, 3)])
    assert repr(model) == "Autoencoder((1, 8, 8) -> (4, 6, 6), 41 parameters, float32, cpu)"


def test_copies_share_the_backend() -> None:
    model = convae.Autoencoder((1, 8, 8), [Layer(2, 3)])
    assert copy.deepcopy(model).backend is model.backend


OUTSIDE = "x: values range .* only ranges from 0 to 1"


@pytest.mark.parametrize(
    ("wrong", "says"), [(255.0, OUTSIDE), (-1.0, OUTSIDE), (np.nan, r"x: has values .* \(NaN\)")]
)
def test_reconstruct_warns_of_images_outside_the_range(wrong: float, says: str) -> None:
    model = convae.Autoencoder((1, 6, 6), [convae.Layer(filters=2, kernel=3)])
    x = np.full((2, 1, 6, 6), 0.5, "float32")
    model.reconstruct(x)
    x[1, 0, 2, 3] = wrong
    with pytest.warns(UserWarning, match=says):
        model.reconstruct(x)


def test_metadata_travel_with_the_model(tmp_path) -> None:
    model = convae.Autoencoder((1, 6, 6), [convae.Layer(filters=2, kernel=3)])
    model.metadata["threshold"] = 0.25
    model.save(tmp_path / "model.safetensors")
    for other in (convae.load(tmp_path / "model.safetensors"), copy.deepcopy(model)):
        assert other.metadata == {"threshold": 0.25}
        other.metadata["threshold"] = 1.0
    assert model.metadata == {"threshold": 0.25}
