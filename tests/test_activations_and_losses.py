"""Activations and losses at ordinary and at extreme values, against PyTorch."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch

from convae import engine
from convae.activations import ACTIVATIONS
from convae.losses import loss
from tests import untied


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_activations_equal_pytorchs(xp: ModuleType, name: str, dtype: str) -> None:
    z = np.concatenate([np.linspace(-6, 6, 101), [-1e4, -200, -90, 0, 90, 200, 1e4]]).astype(dtype)
    z_t = torch.tensor(z, requires_grad=True)
    expected = untied.ACTIVATIONS[name](z_t)
    expected.sum().backward()
    H = ACTIVATIONS[name](xp.asarray(z))
    dZ = ACTIVATIONS[name].gradient(xp.ones_like(H), H)
    assert H.dtype == dZ.dtype == dtype
    tolerance = 1e-6 if dtype == "float32" else 1e-14
    np.testing.assert_allclose(
        engine.to_numpy(H), expected.detach().numpy(), rtol=tolerance, atol=tolerance
    )
    np.testing.assert_allclose(
        engine.to_numpy(dZ), z_t.grad.numpy(), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bce_stays_finite_when_the_output_saturates(xp: ModuleType, dtype: str) -> None:
    sigmoid = ACTIVATIONS["sigmoid"]
    A = xp.asarray([[[-1000, 1000, -1000, 1000]]], dtype)
    x = xp.asarray([[[0, 1, 1, 0]]], dtype)
    J, E = loss("bce", "sigmoid")(sigmoid(A), x, sigmoid)
    assert 40 < float(J) < 400  # two right, two as wrong as can be
    np.testing.assert_allclose(engine.to_numpy(E), [[[0, 0, -0.25, 0.25]]], atol=1e-30)


def test_bce_gradient_pulls_the_right_way_when_saturated() -> None:
    sigmoid = ACTIVATIONS["sigmoid"]
    R = sigmoid(np.array([[[-200.0, 200.0]]]))
    _, E = loss("bce", "sigmoid")(R, np.array([[[1.0, 0.0]]]), sigmoid)
    np.testing.assert_allclose(E, [[[-0.5, 0.5]]])
