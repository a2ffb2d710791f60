"""Optimizers against PyTorch's."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch

import convae
from convae import engine
from convae.training.optimizers import Optimizer

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


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: convae.Adam(0), "learning_rate: 0 is out of range; expected a number over 0"),
        (lambda: convae.Adam(float("nan")), "learning_rate: nan is out of range"),
        (lambda: convae.Adam(weight_decay=-1), "weight_decay: -1 is out of range"),
        (lambda: convae.Adam(beta2=1), "beta2: 1 is out of range; .* at least 0 and below 1"),
        (lambda: convae.Adam(epsilon=0), "epsilon: 0 is out of range"),
        (lambda: convae.SGD(momentum=1.5), "momentum: 1.5 is out of range"),
        (lambda: convae.SGD(nesterov=True), "nesterov: .*momentum"),
    ],
)
def test_bad_values_are_refused_by_name(build, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build()


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: convae.Adam("fast"), "learning_rate: 'fast' is not a number over 0"),
        (lambda: convae.SGD(momentum=0.9, nesterov=1), "nesterov: 1 "),
        (lambda: Optimizer().update(np.zeros(3), np.ones(3)), "use SGD, Adam or AdamW"),
    ],
)
def test_values_of_another_type_are_refused_by_name(build, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        build()


def test_one_optimizer_serves_one_model() -> None:
    optimizer = convae.Adam()
    optimizer.update(np.zeros(3), np.ones(3))
    with pytest.raises(ValueError, match="served 3 parameters of float64 and cannot serve 4"):
        optimizer.update(np.zeros(4), np.ones(4))
