"""Activations and losses at ordinary and at extreme values, against PyTorch."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch

from convae import engine
from convae.models.activations import ACTIVATIONS
from convae.models.biases import bias_gradient
from convae.models.losses import loss
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


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("order", ["positions first", "C"])
def test_bias_activation_and_loss_in_any_memory_order(
    rng, name: str, dtype: str, order: str
) -> None:
    """The compiled passes over arrays as the engine lays them out, and the others."""
    z, x = (3 * rng.standard_normal((7, 5, 3, 2)).astype(dtype) for _ in range(2))
    z[0, 0, 0, :] = 200, -200
    b = rng.standard_normal(5).astype(dtype)
    z_t, b_t = (torch.tensor(array, requires_grad=True) for array in (z, b))
    H_t = untied.ACTIVATIONS[name](z_t + b_t[:, None, None])
    J_t = torch.nn.functional.mse_loss(H_t, torch.tensor(x))
    J_t.backward()
    f = ACTIVATIONS[name]
    if order == "positions first":
        z, x = engine.positions_first(z), engine.positions_first(x)
    H = f(z, b)
    J, E = loss("mse", name)(H, x, f)
    dZ = f.gradient(H - x, H)
    dZ *= 2 / H.size
    db = bias_gradient(E, b.shape)
    assert H.dtype == E.dtype == dZ.dtype == db.dtype == dtype
    tolerance = (
        {"rtol": 1e-5, "atol": 1e-6} if dtype == "float32" else {"rtol": 1e-12, "atol": 1e-15}
    )
    np.testing.assert_allclose(float(J), J_t.item(), **tolerance)
    np.testing.assert_allclose(H, H_t.detach().numpy(), **tolerance)
    np.testing.assert_allclose(E, z_t.grad.numpy(), **tolerance)
    np.testing.assert_allclose(dZ, z_t.grad.numpy(), **tolerance)
    np.testing.assert_allclose(db, b_t.grad.numpy(), **tolerance)


@pytest.mark.parametrize("name", ["relu", "leaky_relu"])
def test_rectifiers_of_what_is_not_finite(name: str) -> None:
    """What is not a number stays visible; the compiled pass and NumPy's agree."""
    z = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, -1.0], "float32").reshape(1, 1, 6)
    expected = ACTIVATIONS[name](z.copy())
    fast = ACTIVATIONS[name](engine.positions_first(z), np.zeros(1, "float32"))
    np.testing.assert_array_equal(fast, expected)
    assert np.isnan(fast[0, 0, 0])


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
