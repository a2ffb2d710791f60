"""Optimizers against PyTorch's."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch

import convae
from convae import engine
from tests import untied

PAIRS = {
    "sgd": (lambda: convae.SGD(0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "momentum": (
        lambda: convae.SGD(0.1, momentum=0.9),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    ),
    "nesterov": (
        lambda: convae.SGD(0.1, 0.01, momentum=0.9, nesterov=True),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    ),
    "adam": (lambda: convae.Adam(0.01), lambda p: torch.optim.Adam(p, 0.01)),
    "adam, all values": (
        lambda: convae.Adam(0.01, 0.1, beta1=0.8, beta2=0.95, epsilon=1e-3),
        lambda p: torch.optim.Adam(p, 0.01, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1),
    ),
    "adamw": (lambda: convae.AdamW(0.01), lambda p: torch.optim.AdamW(p, 0.01)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_optimizers_follow_pytorchs(xp: ModuleType, rng, name: str) -> None:
    ours, theirs = PAIRS[name]
    start = rng.standard_normal(50)
    parameters, tensor = xp.asarray(start), torch.tensor(start, requires_grad=True)
    optimizer, reference = ours(), theirs([tensor])
    for _ in range(20):
        gradient = rng.standard_normal(50)
        optimizer.update(parameters, xp.array(gradient))
        tensor.grad = torch.tensor(gradient)
        reference.step()
    np.testing.assert_allclose(engine.to_numpy(parameters), tensor.detach().numpy(), rtol=1e-10)


def test_twenty_adam_steps_of_a_model_follow_pytorchs(xp: ModuleType, rng) -> None:
    layers = [
        convae.Layer(3, 3, stride=2, padding="same"),
        convae.Layer(4, 3, activation="tanh"),
    ]
    arguments = {"input_shape": (1, 7, 7), "layers": layers, "dtype": "float64"}
    model = convae.Autoencoder(**arguments, device="cpu" if xp is np else "gpu")
    copy = convae.Autoencoder(**arguments)
    tensors = untied.parameters_of(copy)
    reference = torch.optim.Adam(tensors.values(), 0.01)
    step = convae.TrainingStep(model, convae.Adam(0.01))
    for _ in range(20):
        x = rng.random((8, 1, 7, 7))
        loss = step(xp.asarray(x))
        assert loss.shape == ()
        reference.zero_grad()
        R = untied.reconstruct(copy, tensors, torch.tensor(x))
        expected = torch.nn.functional.mse_loss(R, torch.tensor(x))
        expected.backward()
        reference.step()
        assert float(loss) == pytest.approx(expected.item(), rel=1e-6)
    for name, tensor in tensors.items():
        ours, theirs = engine.to_numpy(model.parameters[name]), tensor.detach().numpy()
        assert np.linalg.norm(ours - theirs) < 1e-6 * np.linalg.norm(theirs)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: convae.Adam(0), "learning_rate: 0 "),
        (lambda: convae.Adam(float("nan")), "learning_rate: nan"),
        (lambda: convae.Adam(weight_decay=-1), "weight_decay: -1"),
        (lambda: convae.Adam(beta2=1), "beta2: 1 "),
        (lambda: convae.Adam(epsilon=0), "epsilon: 0 "),
        (lambda: convae.SGD(momentum=1.5), "momentum: 1.5"),
        (lambda: convae.SGD(nesterov=True), "nesterov: True .*momentum > 0"),
    ],
)
def test_bad_values_are_refused_by_name(build, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build()


def test_a_value_that_is_no_number_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="learning_rate: 'fast' is no number"):
        convae.Adam("fast")


def test_one_optimizer_serves_one_model() -> None:
    optimizer = convae.Adam()
    optimizer.update(np.zeros(3), np.ones(3))
    with pytest.raises(ValueError, match="served 3 parameters and cannot serve 4"):
        optimizer.update(np.zeros(4), np.ones(4))


@pytest.mark.parametrize("clip_norm", [1e-4, 1e-2, 10.0])
def test_clipping_follows_pytorchs(xp: ModuleType, rng, clip_norm: float) -> None:
    device = "cpu" if xp is np else "gpu"
    arguments = {"input_shape": (1, 6, 6), "layers": [convae.Layer(3, 3)], "dtype": "float64"}
    model = convae.Autoencoder(**arguments, device=device)
    copy = convae.Autoencoder(**arguments)
    x = rng.random((8, 1, 6, 6))
    tensors = untied.parameters_of(copy)
    reference = torch.optim.SGD(tensors.values(), 1.0)
    torch.nn.functional.mse_loss(
        untied.reconstruct(copy, tensors, torch.tensor(x)), torch.tensor(x)
    ).backward()
    norm = torch.nn.utils.clip_grad_norm_(list(tensors.values()), clip_norm)
    reference.step()
    assert (norm > clip_norm) == (clip_norm < 1)
    convae.TrainingStep(model, convae.SGD(1.0), clip_norm)(xp.asarray(x))
    for name, tensor in tensors.items():
        np.testing.assert_allclose(
            engine.to_numpy(model.parameters[name]), tensor.detach().numpy(), rtol=1e-5, atol=1e-9
        )


def test_a_bad_norm_is_refused() -> None:
    model = convae.Autoencoder((1, 6, 6), [convae.Layer(3, 3)])
    with pytest.raises(ValueError, match="clip_norm: 0 will not do"):
        convae.TrainingStep(model, convae.Adam(), 0)
