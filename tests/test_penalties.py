"""Penalties and their gradients against PyTorch's autograd, Jacobians included."""

from __future__ import annotations

import dataclasses
from types import ModuleType

import numpy as np
import pytest
import torch

import convae
from convae import Layer, Penalty, engine
from convae.models.activations import ACTIVATIONS
from tests import untied
from tests.test_autoencoder import build

STACK = [
    Layer(3, 3, stride=2, padding="same", activation="tanh"),
    Layer(4, 2, padding=1, activation="sigmoid"),
]
EACH = {
    "l1": Penalty(l1=0.7),
    "kl": Penalty(kl=0.3, target=0.2),
    "contractive": Penalty(contractive=0.05),
    "weight_decay": Penalty(weight_decay=0.1),
    "all": Penalty(l1=0.7, kl=0.3, target=0.2, contractive=0.05, weight_decay=0.1),
}


def by_autograd(model, penalty: Penalty, x: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
    """The loss with its penalties, by definition, and its gradients."""
    p = untied.parameters_of(model)
    images = torch.tensor(x)
    loss = untied.LOSSES[model.loss.name](untied.reconstruct(model, p, images), images)
    H = images.reshape(len(x), -1)
    for i in range(len(model.layers)):
        for example in H:
            jacobian = torch.autograd.functional.jacobian(
                lambda v, i=i: untied.encode(model, p, i, v[None])[0], example, create_graph=True
            )
            loss = loss + penalty.contractive * (jacobian**2).sum() / len(x)
        H = untied.encode(model, p, i, H)
    loss = loss + penalty.l1 * H.abs().mean()
    if penalty.kl:
        rho = H.reshape(len(x), *model.code_shape).transpose(0, 1).flatten(1).mean(1)
        chances = [torch.stack([r, 1 - r]) for r in (torch.full_like(rho, penalty.target), rho)]
        divergence = torch.nn.functional.kl_div(chances[1].log(), chances[0], reduction="sum")
        loss = loss + penalty.kl * divergence / len(rho)
    for name, K in p.items():
        if name.endswith("kernel"):
            loss = loss + penalty.weight_decay / 2 * (K**2).sum()
    loss.backward()
    return loss.item(), {name: tensor.grad.numpy() for name, tensor in p.items()}


def assert_equals_autograd(model, xp: ModuleType, penalty: Penalty, x: np.ndarray) -> None:
    loss, gradients = model.loss_and_gradients(xp.asarray(x), penalty=penalty)
    host = convae.Autoencoder(**model.configuration())
    for name, array in model.parameters.items():
        host.parameters[name][...] = engine.to_numpy(array)
    expected_loss, expected = by_autograd(host, penalty, x)
    assert loss == pytest.approx(expected_loss, rel=1e-10)
    for name, gradient in gradients.items():
        error = np.linalg.norm(engine.to_numpy(gradient) - expected[name])
        assert error < 1e-9 * np.linalg.norm(expected[name]), name


@pytest.mark.parametrize("name", EACH)
def test_gradients_equal_autograd(xp: ModuleType, rng, name: str) -> None:
    model = build(xp, (2, 6, 5), STACK)
    assert_equals_autograd(model, xp, EACH[name], rng.random((5, 2, 6, 5)))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_contraction_of_every_activation(xp: ModuleType, rng, activation: str) -> None:
    model = build(xp, (2, 5), [Layer(3, 3, activation=activation)])
    assert_equals_autograd(model, xp, EACH["contractive"], rng.random((3, 2, 5)))


@pytest.mark.parametrize(
    "kind",
    [{"sharing": "tiled", "tile": 2}, {"sharing": "local"}, {"groups": 2}, {"tied": False}],
    ids=str,
)
def test_contraction_of_every_sharing(xp: ModuleType, rng, kind: dict) -> None:
    layer = Layer(4, 3, stride=2, padding="same", activation="sigmoid", **kind)
    model = build(xp, (2, 6, 7), [layer])
    assert_equals_autograd(model, xp, EACH["all"], rng.random((3, 2, 6, 7)))


def test_parts_of_a_batch_add_up(rng) -> None:
    """130 examples are worked on in parts; their penalties have to be those of the whole."""
    model = build(np, (1, 4), [Layer(2, 2, activation="sigmoid")])
    x = rng.random((130, 1, 4))
    assert_equals_autograd(model, np, EACH["all"], x)


def test_a_step_with_a_penalty_makes_codes_sparser(rng) -> None:
    x = rng.random((32, 1, 6, 6), dtype="float32")
    means = []
    for l1 in (0.0, 1.0):
        model = convae.Autoencoder((1, 6, 6), [Layer(8, 3)])
        step = convae.TrainingStep(model, convae.Adam(1e-2), penalty=Penalty(l1=l1))
        for _ in range(50):
            step(x)
        means.append(float(np.abs(model.encode(x)).mean()))
    assert means[1] < 0.5 * means[0]


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Penalty)])
def test_bad_strengths_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"penalty.{field}: -1 will not do"):
        Penalty(**{field: -1})


def test_kl_needs_a_sigmoid(rng) -> None:
    model = convae.Autoencoder((1, 4, 4), [Layer(2, 3)])
    with pytest.raises(ValueError, match=r"penalty.kl: .*'relu'; use 'sigmoid'"):
        convae.TrainingStep(model, convae.Adam(), penalty=Penalty(kl=1))


def test_images_out_of_the_outputs_range_are_pointed_out(rng) -> None:
    model = convae.Autoencoder((1, 4, 4), [Layer(2, 3)])
    step = convae.TrainingStep(model, convae.Adam())
    x = rng.standard_normal((8, 1, 4, 4), dtype="float32")
    with pytest.warns(UserWarning, match=r"range from -.*'sigmoid' only reaches from 0 to 1"):
        step(x)
    step(x)  # said once: warnings are errors in the tests
