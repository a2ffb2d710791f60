"""Activations and losses of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

import convae
from convae.errors import UserError, UserTypeError
from convae.models.activations import ACTIVATIONS
from convae.models.losses import LOSSES

HARD_TANH = convae.Activation(
    name="hard_tanh",
    function=lambda xp, Z: xp.clip(Z, -1, 1, out=Z),
    derivative=lambda xp, H: (H > -1) & (H < 1),
    range=(-1, 1),
)


RIGHT = {
    "derivative": lambda xp, H: 1 - H * H,
    "curvature": lambda xp, H: 2 * H * (H * H - 1),
}


def huber(backend, R, x, f_out, count):
    """A smooth transition from squares to absolute values."""
    xp, difference = backend.xp, R - x
    root = xp.sqrt(1 + difference**2)
    E = backend.activation_gradient(difference / root / count, R, f_out)
    return (root - 1).sum(dtype="float64") / count, E


@pytest.fixture(autouse=True)
def forgetting() -> Iterator[None]:
    before = dict(ACTIVATIONS), dict(LOSSES)
    yield
    for known, names in zip((ACTIVATIONS, LOSSES), before, strict=True):
        known.clear()
        known.update(names)


def test_a_registered_activation_and_loss_train_save_and_load(rng, tmp_path) -> None:
    convae.register(HARD_TANH)
    convae.register(convae.Loss(name="huber", function=huber))
    layer = convae.Layer(4, 3, activation="hard_tanh")
    model = convae.Autoencoder((1, 6, 6), [layer], loss="huber", dtype="float64")
    x = rng.random((5, 1, 6, 6))
    _, gradients = model.loss_and_gradients(x)
    K = model.parameters["0.kernel"]
    for at in ((0, 0, 1, 1), (3, 0, 2, 0)):
        ends = []
        for sign in (1, -1):
            K[at] += sign * 1e-6
            ends.append(model.evaluate(x)[0])
            K[at] -= sign * 1e-6
        assert gradients["0.kernel"][at] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5)
    model.save(tmp_path / "model.safetensors")
    assert convae.load(tmp_path / "model.safetensors").evaluate(x)[0] == model.evaluate(x)[0]
    with pytest.raises(UserError, match="'hard_tanh' has no counterpart in PyTorch"):
        convae.to_torch(model)


def test_a_configuration_takes_a_registered_name(tmp_path) -> None:
    convae.register(HARD_TANH)
    result = convae.train(
        [
            "debug=fast",
            "device=cpu",
            "trainer.embeddings=0",
            "model=conv",
            "model.layers.0.activation=hard_tanh",
            f"hydra.run.dir={tmp_path / 'run'}",
        ]
    )
    assert result.model.layers[0].spec.activation == "hard_tanh"


def test_a_model_of_an_unknown_name_says_so(tmp_path) -> None:
    convae.register(HARD_TANH)
    layer = convae.Layer(4, 3, activation="hard_tanh")
    convae.Autoencoder((1, 6, 6), [layer]).save(tmp_path / "model.safetensors")
    del ACTIVATIONS["hard_tanh"]
    with pytest.raises(UserError, match="'hard_tanh' is unknown; expected one of identity"):
        convae.load(tmp_path / "model.safetensors")


def test_taken_names_and_other_things_are_refused() -> None:
    convae.register(HARD_TANH)
    convae.register(HARD_TANH)
    twin = convae.Activation(
        name="hard_tanh", function=HARD_TANH.function, derivative=HARD_TANH.derivative
    )
    convae.register(twin)  # as when a notebook's cell is run again
    assert ACTIVATIONS["hard_tanh"] is twin
    with pytest.raises(UserError, match="name: 'relu' is taken"):
        convae.register(replace(twin, name="relu"))
    with pytest.raises(UserError, match="name: 'mse' is taken"):
        convae.register(convae.Loss(name="mse", function=huber))
    with pytest.raises(UserTypeError, match="neither an Activation nor a Loss"):
        convae.register(torch.relu)


@pytest.mark.parametrize(
    "wrong",
    [
        {"derivative": lambda xp, H: H},
        {"derivative": None},
        {"derivative": lambda xp, H: H * np.nan},
        {"derivative": lambda xp, H: 1 - H * H, "curvature": lambda xp, H: H},
        {"derivative": lambda xp, H: 1 - H * H, "curvature": None},
        {**RIGHT, "quadratic": (1, 0.1, -1, 1)},
        {**RIGHT, "slope": 0.5},
    ],
)
def test_wrong_derivatives_are_found(wrong: dict) -> None:
    f = convae.Activation(name="wrong", function=lambda xp, Z: xp.tanh(Z, out=Z), **wrong)
    with pytest.raises(UserError, match=r"(derivative|curvature|quadratic|slope): at Z ="):
        convae.register(f)
    assert "wrong" not in ACTIVATIONS


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_our_own_pass(name: str) -> None:
    convae.register(ACTIVATIONS[name])
