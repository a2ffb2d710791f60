"""Penalties and their gradients against PyTorch's autograd, Jacobians included."""

from __future__ import annotations

import dataclasses
from types import ModuleType

import numpy as np
import pytest
import torch

import convae
from convae import Layer, Penalty
from convae.errors import UserError
from convae.models.activations import ACTIVATIONS
from convae.models.backpropagation import training_chunks
from tests.helpers import Untied, assert_gradients, build

pytestmark = pytest.mark.usefixtures("divided")

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


def by_autograd(
    model: convae.Autoencoder, penalty: Penalty, x: np.ndarray
) -> tuple[float, dict[str, np.ndarray]]:
    """The loss with its penalties, by definition, and its gradients."""
    oracle, images = Untied(model), torch.tensor(x)
    loss = oracle.loss(images)
    H = images.reshape(len(x), -1)
    for i in range(len(model.layers)):
        for example in H:
            jacobian = torch.autograd.functional.jacobian(
                lambda v, i=i: oracle.encode_layer(i, v[None])[0], example, create_graph=True
            )
            loss = loss + penalty.contractive * (jacobian**2).sum() / len(x)
        H = oracle.encode_layer(i, H)
    loss = loss + penalty.l1 * H.abs().mean()
    if penalty.kl:
        rho = H.reshape(len(x), *model.code_shape).transpose(0, 1).flatten(1).mean(1)
        chances = [torch.stack([r, 1 - r]) for r in (torch.full_like(rho, penalty.target), rho)]
        divergence = torch.nn.functional.kl_div(chances[1].log(), chances[0], reduction="sum")
        loss = loss + penalty.kl * divergence / len(rho)
    for name, K in oracle.tensors.items():
        if name.endswith("kernel"):
            loss = loss + penalty.weight_decay / 2 * (K**2).sum()
    loss.backward()
    return loss.item(), oracle.gradients()


def assert_equals_autograd(model: convae.Autoencoder, penalty: Penalty, x: np.ndarray) -> None:
    loss, gradients = model.loss_and_gradients(model.xp.asarray(x), penalty=penalty)
    expected_loss, expected = by_autograd(model, penalty, x)
    assert loss == pytest.approx(expected_loss, rel=1e-10)
    assert_gradients(gradients, expected)


@pytest.mark.parametrize("name", EACH)
def test_gradients_equal_autograd(xp: ModuleType, rng, name: str) -> None:
    model = build(xp, (2, 6, 5), STACK)
    assert_equals_autograd(model, EACH[name], rng.random((5, 2, 6, 5)))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_contraction_of_every_activation(xp: ModuleType, rng, activation: str) -> None:
    model = build(xp, (2, 5), [Layer(3, 3, activation=activation)])
    assert_equals_autograd(model, EACH["contractive"], rng.random((3, 2, 5)))


@pytest.mark.parametrize(
    "kind",
    [{"sharing": "tiled", "tile": 2}, {"sharing": "local"}, {"groups": 2}, {"tied": False}],
    ids=str,
)
def test_contraction_of_every_sharing(xp: ModuleType, rng, kind: dict) -> None:
    layer = Layer(4, 3, stride=2, padding="same", activation="sigmoid", **kind)
    model = build(xp, (2, 6, 7), [layer])
    assert_equals_autograd(model, EACH["all"], rng.random((3, 2, 6, 7)))


def test_chunks_of_a_batch_add_up(rng) -> None:
    model = build(np, (1, 4), [Layer(2, 2, activation="sigmoid")])
    assert len(training_chunks(model.backend, model.layers, 130)) > 1
    assert_equals_autograd(model, EACH["all"], rng.random((130, 1, 4)))


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Penalty)])
@pytest.mark.parametrize("value", [-1, float("nan")])
def test_bad_strengths_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"penalty.{field}: {value} is out of range"):
        Penalty(**{field: value})


def test_kl_needs_a_sigmoid(rng) -> None:
    model = convae.Autoencoder((1, 4, 4), [Layer(2, 3)])
    with pytest.raises(ValueError, match=r"penalty.kl: .*'relu'.*'sigmoid'"):
        model.loss_and_gradients(rng.random((2, 1, 4, 4), dtype="float32"), penalty=Penalty(kl=1))


@pytest.mark.parametrize(("mode", "size"), [("reflect", 8), ("replicate", 8), ("circular", 2)])
def test_contractive_is_refused_where_its_closed_form_is_wrong(mode: str, size: int) -> None:
    layer = convae.Layer(3, 3, padding=1, padding_mode=mode)
    model = convae.Autoencoder((1, size, size), [layer])
    with pytest.raises(UserError, match=f"penalty.contractive: layer 0's padding_mode '{mode}'"):
        model.check_penalty(convae.Penalty(contractive=0.1))


def test_contractive_with_circular_padding_is_the_jacobians_norm(rng) -> None:
    layer = convae.Layer(3, 3, padding=1, padding_mode="circular", activation="sigmoid")
    model = convae.Autoencoder((1, 5, 5), [layer], dtype="float64")
    x = rng.random((1, 1, 5, 5))
    columns = []
    for position in np.ndindex(5, 5):
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved[0, 0][position] += sign * 1e-6
            ends.append(model.encode(moved).ravel())
        columns.append((ends[0] - ends[1]) / 2e-6)
    plain, _ = model.loss_and_gradients(x)
    with_penalty, _ = model.loss_and_gradients(x, penalty=convae.Penalty(contractive=1.0))
    assert with_penalty - plain == pytest.approx((np.array(columns) ** 2).sum(), rel=1e-6)
