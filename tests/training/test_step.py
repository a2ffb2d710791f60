"""The training step: gradients and updates as by PyTorch, clipping, penalties, and a warning."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch

import convae
from convae import Adam, Layer, Penalty
from convae.engine import to_numpy
from convae.errors import UserError, UserTypeError
from tests.helpers import Untied, device_of, error

LAYERS = [Layer(3, 3, stride=2, padding="same"), Layer(4, 3, activation="tanh")]


def model_on(xp: ModuleType) -> convae.Autoencoder:
    return convae.Autoencoder((1, 7, 7), LAYERS, dtype="float64", device=device_of(xp))


def assert_same_parameters(model: convae.Autoencoder, oracle: Untied, tolerance: float) -> None:
    for name, tensor in oracle.tensors.items():
        assert error(model.parameters[name], tensor.detach().numpy()) < tolerance, name


def test_twenty_steps_of_adam_follow_pytorchs(xp: ModuleType, rng) -> None:
    model = model_on(xp)
    oracle = Untied(model)
    reference = torch.optim.Adam(oracle.tensors.values(), 0.01)
    step = convae.TrainingStep(model, Adam(0.01))
    for _ in range(20):
        x = rng.random((8, 1, 7, 7))
        loss = step(xp.asarray(x))
        assert loss.shape == ()
        reference.zero_grad()
        expected = oracle.loss(torch.tensor(x))
        expected.backward()
        reference.step()
        assert float(loss) == pytest.approx(expected.item(), rel=1e-6)
    assert_same_parameters(model, oracle, 1e-6)


@pytest.mark.parametrize("clip_norm", [1e-4, 1e-2, 10.0])
def test_long_gradients_are_scaled_down(xp: ModuleType, rng, clip_norm: float) -> None:
    model = model_on(xp)
    oracle = Untied(model)
    x = rng.random((8, 1, 7, 7))
    oracle.loss(torch.tensor(x)).backward()
    norm = float(torch.cat([tensor.grad.ravel() for tensor in oracle.tensors.values()]).norm())
    assert (norm > clip_norm) == (clip_norm < 1)
    with torch.no_grad():
        for tensor in oracle.tensors.values():
            tensor -= tensor.grad * min(1, clip_norm / norm)
    convae.TrainingStep(model, convae.SGD(1.0), clip_norm)(xp.asarray(x))
    assert_same_parameters(model, oracle, 1e-9)


def test_a_target_of_its_own_is_what_is_learnt(rng) -> None:
    x, target = rng.random((2, 8, 1, 7, 7))
    model = model_on(np)
    oracle = Untied(model)
    oracle.loss(torch.tensor(x), torch.tensor(target)).backward()
    loss = convae.TrainingStep(model, convae.SGD(1.0))(x, target)
    assert float(loss) == pytest.approx(((model_on(np).reconstruct(x) - target) ** 2).mean())
    with torch.no_grad():
        for tensor in oracle.tensors.values():
            tensor -= tensor.grad
    assert_same_parameters(model, oracle, 1e-9)


def test_a_penalty_makes_codes_sparser(rng) -> None:
    x = rng.random((32, 1, 6, 6), dtype="float32")
    means = []
    for l1 in (0.0, 1.0):
        model = convae.Autoencoder((1, 6, 6), [Layer(8, 3)])
        step = convae.TrainingStep(model, Adam(1e-2), penalty=Penalty(l1=l1))
        for _ in range(50):
            step(x)
        means.append(float(np.abs(model.encode(x)).mean()))
    assert means[1] < 0.5 * means[0]


def test_a_first_batch_out_of_the_outputs_range_gives_a_warning(rng) -> None:
    step = convae.TrainingStep(convae.Autoencoder((1, 4, 4), [Layer(2, 3)]), Adam())
    x = rng.standard_normal((8, 1, 4, 4), dtype="float32")
    with pytest.warns(UserWarning, match=r"range from -.*'sigmoid' only ranges from 0 to 1"):
        step(x)
    step(x)  # said once: warnings are errors in the tests


@pytest.mark.parametrize(
    ("arguments", "kind", "says"),
    [
        ({"model": None}, UserTypeError, "model: None is not a convae Model"),
        ({"optimizer": "adam"}, UserTypeError, "optimizer: 'adam' is not a convae Optimizer"),
        ({"penalty": 0.1}, UserTypeError, "penalty: 0.1 is not a convae Penalty"),
        ({"clip_norm": 0}, UserError, "clip_norm: 0 is out of range; expected a number over 0"),
        ({"penalty": Penalty(kl=1)}, UserError, "penalty.kl: .*'sigmoid'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict, kind: type, says: str) -> None:
    model = convae.Autoencoder((1, 6, 6), [Layer(3, 3)])
    with pytest.raises(kind, match=says):
        convae.TrainingStep(**{"model": model, "optimizer": Adam(), **arguments})


@pytest.mark.parametrize("parts", [2, 3, 8, 100])
def test_a_batch_in_parts_is_the_whole_batch(xp: ModuleType, rng, parts: int) -> None:
    x, target = (xp.asarray(rng.random((8, 1, 7, 7))) for _ in range(2))
    found = []
    for accumulate in (1, parts):
        model = model_on(xp)
        penalty = Penalty(l1=0.1, weight_decay=0.1, contractive=0.1)
        step = convae.TrainingStep(model, Adam(0.01), 0.1, penalty, accumulate=accumulate)
        losses = [float(step(x, target)), float(step.measure(x, target)), float(step(x))]
        found.append((losses, to_numpy(model.flat_parameters)))
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-12)
    assert error(found[1][1], found[0][1]) < 1e-12


def test_what_is_of_a_whole_batch_is_not_computed_in_parts() -> None:
    layers = [Layer(3, 3, activation="sigmoid")]
    for how, penalty, says in (
        ({"lifetime": 0.1}, Penalty(), "accumulate: model.lifetime is of a whole batch"),
        ({}, Penalty(kl=0.1), "accumulate: penalty.kl is of a whole batch"),
    ):
        model = convae.Autoencoder((1, 7, 7), layers, **how)
        with pytest.raises(UserError, match=says):
            convae.TrainingStep(model, Adam(), penalty=penalty, accumulate=2)
    with pytest.raises(UserError, match="accumulate: 0 is out of range"):
        convae.TrainingStep(convae.Autoencoder((1, 7, 7), layers), Adam(), accumulate=0)
