"""Activations and their derivatives at ordinary and at extreme values, against PyTorch."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch

from convae import engine
from convae.errors import UserError
from convae.models.activations import ACTIVATIONS, activation
from tests.helpers import TORCH_ACTIVATIONS

ORDINARY = np.linspace(-6, 6, 101)  # zero, where rectifiers have a kink, among them
EXTREME = np.array([-1e4, -200, -90, 0, 90, 200, 1e4])


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-14)])
def test_function_and_derivatives_equal_autograd(
    xp: ModuleType, name: str, dtype: str, tolerance: float
) -> None:
    f = ACTIVATIONS[name]
    z = np.concatenate([ORDINARY, EXTREME]).astype(dtype)
    z_t = torch.tensor(z, requires_grad=True)
    H_t = TORCH_ACTIVATIONS[name](z_t)
    (slope,) = torch.autograd.grad(H_t.sum(), z_t, create_graph=True)
    H = xp.array(z)
    f.function(xp, H)
    assert H.dtype == dtype
    np.testing.assert_allclose(engine.to_numpy(H), H_t.detach(), rtol=tolerance, atol=tolerance)
    derivative = 1 if f.derivative is None else engine.to_numpy(f.derivative(xp, H))
    np.testing.assert_allclose(
        derivative + np.zeros_like(z), slope.detach(), rtol=tolerance, atol=tolerance
    )
    if f.quadratic is not None:
        p, q, r, below = f.quadratic
        y = engine.to_numpy(H)
        by_quadratic = (p + q * y + r * y * y) * np.where(y > 0, 1, below)
        np.testing.assert_allclose(by_quadratic, slope.detach(), rtol=tolerance, atol=tolerance)
    curvature = torch.zeros_like(z_t)
    if slope.requires_grad:
        (curvature,) = torch.autograd.grad(slope.sum(), z_t)
    ours = 0 if f.curvature is None else engine.to_numpy(f.curvature(xp, H))
    np.testing.assert_allclose(
        ours + np.zeros_like(z), curvature, rtol=10 * tolerance, atol=tolerance
    )


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_ranges_are_those_of_the_values(name: str) -> None:
    f, H = ACTIVATIONS[name], np.concatenate([ORDINARY, 1e4 * ORDINARY])
    f.function(np, H)
    low, high = f.range
    assert low <= H.min()
    assert H.max() <= high
    if np.isfinite(low):
        assert H.min() < low + 1e-3
    if np.isfinite(high):
        assert H.max() > high - 1e-3


def test_unknown_activations_are_refused_by_argument() -> None:
    assert activation("tanh") is ACTIVATIONS["tanh"]
    with pytest.raises(UserError, match=r"output_activation: 'rel' is unknown; .*relu, leaky_relu"):
        activation("rel", "output_activation")
