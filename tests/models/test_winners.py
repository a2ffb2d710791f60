"""Winner-take-all: which numbers are kept, and the gradients through them."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import convae
from convae import Autoencoder, UserError
from convae.engine import to_numpy
from convae.models.winners import Winners
from tests.helpers import device_of

LAYERS = [
    {"filters": 3, "kernel": 3, "padding": "same"},
    {"filters": 4, "kernel": 3, "padding": "same", "stride": 2, "activation": "softplus"},
]


def model_of(xp: ModuleType = np, **how: Any) -> Autoencoder:
    return Autoencoder((1, 6, 5), LAYERS, dtype="float64", device=device_of(xp), **how)


def test_spatial_winners(xp: ModuleType) -> None:
    H = np.array([[[[1, 5], [3, 2]], [[-1, -2], [-3, -4]]]], "float64")
    kept = Winners(spatial=True)(xp.asarray(H))
    assert to_numpy(kept).tolist() == [[[[0, 5], [0, 0]], [[-1, 0], [0, 0]]]]


def test_of_equal_ones_the_first_wins(xp: ModuleType) -> None:
    kept = Winners(spatial=True)(xp.ones((2, 3, 4, 4)))
    assert to_numpy(kept).sum(axis=(2, 3)).tolist() == [[1] * 3] * 2


def test_lifetime_winners(xp: ModuleType, rng) -> None:
    H = rng.permutation(10 * 2 * 6).astype(float).reshape(10, 2, 2, 3) + 1
    kept = to_numpy(Winners(lifetime=0.25)(xp.asarray(H)))
    assert (kept != 0).sum(axis=(0, 2, 3)).tolist() == [15, 15]
    for filter in range(2):
        values = np.sort(H[:, filter].ravel())
        assert sorted(kept[:, filter][kept[:, filter] != 0]) == values[-15:].tolist()


def test_both(xp: ModuleType, rng) -> None:
    H = rng.permutation(10 * 2 * 6).astype(float).reshape(10, 2, 2, 3) + 1
    kept = to_numpy(Winners(spatial=True, lifetime=0.25)(xp.asarray(H)))
    strongest = H.max(axis=(2, 3))
    assert (kept != 0).sum(axis=(0, 2, 3)).tolist() == [3, 3]  # a quarter of ten, rounded up
    for filter in range(2):
        best = np.sort(strongest[:, filter])[-3:]
        assert sorted(kept[:, filter][kept[:, filter] != 0]) == best.tolist()


def test_a_single_image_keeps_something(rng) -> None:
    H = rng.random((1, 3, 2, 2))
    assert (Winners(spatial=True, lifetime=0.01)(H) != 0).sum() == 3


def test_without_either_all_are_kept(rng) -> None:
    H = rng.random((2, 3, 2, 2))
    assert not Winners()
    assert Winners()(H) is H


@pytest.mark.parametrize(
    "how", [{"spatial": True}, {"lifetime": 0.3}, {"spatial": True, "lifetime": 0.2}]
)
@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_gradients_against_autograd(
    xp: ModuleType, rng, how: dict[str, Any], loss: str, monkeypatch
) -> None:
    """On a batch of several chunks, whose winners are those of the whole."""
    model, x = model_of(xp, loss=loss, **how), rng.random((20, 1, 6, 5))
    monkeypatch.setattr(
        type(model.backend),
        "divide",
        lambda self, examples, *_: [slice(0, 7), slice(7, 14), slice(14, 20)],
    )
    J, gradients = model.loss_and_gradients(xp.asarray(x))
    arrays = {
        name: torch.tensor(np.ascontiguousarray(to_numpy(array)), requires_grad=True)
        for name, array in model.parameters.items()
    }
    f, spread = torch.nn.functional, (slice(None), None, None)
    H1 = torch.relu(
        f.conv2d(torch.tensor(x), arrays["0.kernel"], arrays["0.hidden_bias"], padding=1)
    )
    V = f.pad(H1, [n for pair in reversed(model.layers[1].geometry.padding) for n in pair])
    H2 = f.softplus(f.conv2d(V, arrays["1.kernel"], arrays["1.hidden_bias"], stride=2))
    kept = model.winners(H2.detach().numpy()) != 0
    H2 = H2 * torch.tensor(kept)
    (top, bottom), (left, right) = model.layers[1].geometry.padding
    A = f.conv_transpose2d(H2, arrays["1.kernel"], stride=2)
    whole = torch.zeros(20, 3, 6 + top + bottom, 5 + left + right, dtype=torch.float64)
    whole[:, :, : A.shape[2], : A.shape[3]] = A[:, :, : whole.shape[2], : whole.shape[3]]
    D1 = torch.relu(whole[:, :, top : top + 6, left : left + 5] + arrays["1.visible_bias"][spread])
    A = f.conv_transpose2d(D1, arrays["0.kernel"], padding=1) + arrays["0.visible_bias"][spread]
    if loss == "mse":
        expected = f.mse_loss(torch.sigmoid(A), torch.tensor(x))
    else:
        expected = f.binary_cross_entropy_with_logits(A, torch.tensor(x))
    expected.backward()
    assert pytest.approx(float(expected.detach()), rel=1e-12) == J
    for name, array in gradients.items():
        np.testing.assert_allclose(to_numpy(array), arrays[name].grad.numpy(), atol=1e-12)


def test_evaluation_reconstructs_from_the_winners(rng) -> None:
    model, x = model_of(spatial=True, lifetime=0.5), rng.random((6, 1, 6, 5))
    loss, R = model.evaluate(x)
    expected = model.decode(model.winners(model.encode(x)))
    np.testing.assert_allclose(R, expected)
    np.testing.assert_allclose(model.reconstruct(x), expected)
    assert float(loss) == pytest.approx(float(((R - x) ** 2).mean()))
    assert model.loss_and_gradients(x)[0] == pytest.approx(float(loss))
    assert (model.encode(x) != 0).all()  # as they are


def test_saved_and_loaded(tmp_path) -> None:
    model = model_of(spatial=True, lifetime=0.5)
    model.save(tmp_path / "model.safetensors")
    assert convae.load(tmp_path / "model.safetensors").winners == Winners(True, 0.5)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"spatial": 1}, "spatial: 1 is neither"),
        ({"lifetime": 0}, "lifetime: 0 is out of range"),
        ({"lifetime": 1.5}, "lifetime: 1.5"),
        ({"lifetime": float("nan")}, "lifetime: nan"),
    ],
)
def test_what_is_refused(how: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        model_of(**how)


def test_it_has_no_plan() -> None:
    with pytest.raises(UserError, match="computes by array code"):
        model_of(spatial=True).plan(8)
