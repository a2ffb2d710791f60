"""Losses and the errors E that they hand to the decoder, against PyTorch."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch

from convae import engine
from convae.errors import UserError
from convae.models.activations import ACTIVATIONS
from convae.models.losses import LOSSES, loss
from tests.helpers import TORCH_ACTIVATIONS, TORCH_LOSSES, device_of

PAIRS = [("mse", name) for name in ACTIVATIONS] + [
    (name, "sigmoid") for name in ("bce", "l1", "ssim")
]


def measured(xp: ModuleType, name: str, output: str, A: np.ndarray, x: np.ndarray, **how: int):
    """J and E from what goes into the output activation."""
    f_out, R = ACTIVATIONS[output], xp.array(A)
    if not loss(name, output).of_logits:
        f_out.function(xp, R)
    J, E = loss(name, output)(engine.backend_for(device_of(xp)), R, xp.asarray(x), f_out, **how)
    return float(J), engine.to_numpy(E)


@pytest.mark.parametrize(("name", "output"), PAIRS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-12)])
def test_losses_equal_pytorchs(
    xp: ModuleType, rng, name: str, output: str, dtype: str, tolerance: float
) -> None:
    A = rng.standard_normal((5, 2, 3, 4)).astype(dtype)
    x = rng.random((5, 2, 3, 4)).astype(dtype)
    A_t = torch.tensor(A, requires_grad=True)
    expected = TORCH_LOSSES[name](TORCH_ACTIVATIONS[output](A_t), torch.tensor(x))
    expected.backward()
    J, E = measured(xp, name, output, A, x)
    assert E.dtype == dtype
    assert pytest.approx(expected.item(), rel=tolerance) == J
    np.testing.assert_allclose(E, A_t.grad, rtol=10 * tolerance, atol=tolerance / 100)


@pytest.mark.parametrize(("name", "output"), PAIRS)
def test_chunks_of_a_batch_add_up(rng, name: str, output: str) -> None:
    A, x = rng.standard_normal((6, 1, 3, 3)), rng.random((6, 1, 3, 3))
    J, E = measured(np, name, output, A, x)
    chunks = [
        measured(np, name, output, A[chunk], x[chunk], count=A.size)
        for chunk in (slice(0, 4), slice(4, 6))
    ]
    assert sum(J for J, _ in chunks) == pytest.approx(J, rel=1e-13)
    np.testing.assert_allclose(np.concatenate([E for _, E in chunks]), E, rtol=1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bce_does_not_saturate(xp: ModuleType, dtype: str) -> None:
    A = np.array([[[-1000, 1000, -1000, 1000]]], dtype)
    J, E = measured(xp, "bce", "sigmoid", A, np.array([[[0, 1, 1, 0]]], dtype))
    assert J == 500  # two right, two wrong by 1000
    np.testing.assert_allclose(E, [[[0, 0, -0.25, 0.25]]], atol=1e-30)


@pytest.mark.parametrize(("dtype", "logit"), [("float32", 17), ("float64", 40)])
def test_bce_of_a_large_logit_is_the_logit(xp: ModuleType, dtype: str, logit: int) -> None:
    A = np.full((1, 1, 4), logit, dtype)
    assert measured(xp, "bce", "sigmoid", A, np.zeros_like(A))[0] == pytest.approx(logit, rel=1e-7)


def test_bce_pulls_the_right_way_where_the_output_saturates() -> None:
    A, x = np.array([[[-200.0, 200.0]]]), np.array([[[1.0, 0.0]]])
    np.testing.assert_allclose(measured(np, "bce", "sigmoid", A, x)[1], [[[-0.5, 0.5]]])


def test_bce_needs_a_sigmoid() -> None:
    assert loss("mse", "tanh") is LOSSES["mse"]
    with pytest.raises(UserError, match=r"loss: 'bce' .*sigmoid, not 'tanh'"):
        loss("bce", "tanh")
    with pytest.raises(UserError, match=r"loss: 'l3' is unknown; .*mse, bce"):
        loss("l3", "sigmoid")


@pytest.mark.parametrize("size", [(14, 12), (11, 11), (8, 30), (1, 2), (15,), (4,), (12, 11, 13)])
@pytest.mark.parametrize("output", ["identity", "sigmoid"])
def test_the_gradient_of_ssim(xp: ModuleType, rng, size, output: str) -> None:
    A, x = rng.normal(0.5, 0.3, (2, 3, *size)), rng.random((2, 3, *size))
    A_t = torch.tensor(A, requires_grad=True)
    expected = TORCH_LOSSES["ssim"](TORCH_ACTIVATIONS[output](A_t), torch.tensor(x))
    expected.backward()
    J, E = measured(xp, "ssim", output, A, x)
    assert pytest.approx(expected.item(), rel=1e-11) == J
    np.testing.assert_allclose(E, A_t.grad, rtol=1e-8, atol=1e-13)


@pytest.mark.parametrize("name", ["mse", "l1", "ssim"])
def test_equal_images_have_no_loss_and_no_gradient(xp: ModuleType, rng, name: str) -> None:
    x = rng.random((2, 3, 12, 12)).astype("float32")
    J, E = measured(xp, name, "identity", x, x)
    assert abs(J) < 1e-6
    assert np.abs(E).max() < 1e-8
