"""Max-pooling with switches against PyTorch's, and gradients through it against autograd."""

from __future__ import annotations

from itertools import product
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import convae
from convae import Autoencoder, Layer, UserError, engine
from convae.engine import ArrayBackend, to_numpy
from convae.models.classifier import Classifier
from convae.models.initialisation import initialise
from convae.models.penalties import Penalty
from convae.models.pooling import Pooling
from tests.helpers import device_of

pytestmark = pytest.mark.usefixtures("divided")

LAYERS = [
    Layer(filters=4, kernel=3, padding="same", pool=2),
    Layer(filters=3, kernel=2, activation="tanh", pool=(1, 2)),
]


def model_of(xp: ModuleType = np, **how: Any) -> Autoencoder:
    return Autoencoder((2, 8, 6), LAYERS, dtype="float64", device=device_of(xp), **how)


@pytest.mark.parametrize("window", [(2, 2), (3, 1), (1, 2)])
def test_against_pytorch(xp: ModuleType, rng, window: tuple[int, int]) -> None:
    H = rng.standard_normal((3, 4, 6, 8))
    pooling = Pooling(window, engine.backend_for(device_of(xp)))
    values, switches = pooling.down(xp.asarray(H))
    expected, indices = functional.max_pool2d(torch.tensor(H), window, return_indices=True)
    np.testing.assert_array_equal(to_numpy(values), expected.numpy())
    assert values.shape[2:] == pooling.output((6, 8))
    whole = functional.max_unpool2d(expected, indices, window, output_size=(6, 8))
    np.testing.assert_array_equal(to_numpy(pooling.up(values, switches)), whole.numpy())
    np.testing.assert_array_equal(to_numpy(pooling.take(xp.asarray(H), switches)), expected.numpy())


@pytest.mark.parametrize("shape", [(2, 3, 12), (2, 3, 4, 6), (2, 3, 4, 6, 2)])
def test_up_is_the_transpose_of_take(rng, shape: tuple[int, ...]) -> None:
    pooling = Pooling((2,) * (len(shape) - 2), engine.backend_for("cpu"))
    H = rng.standard_normal(shape)
    values, switches = pooling.down(H)
    P = rng.standard_normal(values.shape)
    assert float((pooling.take(H, switches) * P).sum()) == pytest.approx(
        float((H * pooling.up(P, switches)).sum())
    )


def positions(window: tuple[int, ...]) -> list[tuple[slice, ...]]:
    """Slices of every position of windows, row by row."""
    steps = [[slice(at, None, w) for at in range(w)] for w in window]
    return list(product(*steps))


@pytest.mark.parametrize("window", [(3,), (2, 3), (1, 2, 2)])
@pytest.mark.parametrize("channels", [1, 3, 17])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_compiled_against_array_code(
    xp: ModuleType, rng, window: tuple[int, ...], channels: int, dtype: str
) -> None:
    """Also of NaN and infinity, and of arrays in any order."""
    backend, plain = engine.backend_for(device_of(xp)), ArrayBackend()
    size = tuple(2 * (n + 1) * w for n, w in enumerate(window))
    H = rng.standard_normal((3, channels, *size)).astype(dtype)
    H.flat[::7] = np.nan
    H.flat[::11] = np.inf
    H.flat[::5] = 0.0
    for batch in (H, np.asfortranarray(H), np.moveaxis(np.moveaxis(H, 1, -1).copy(), -1, 1)):
        P, switches = backend.pool(xp.asarray(batch), window)
        expected, where = plain.pool(H, window)
        np.testing.assert_array_equal(to_numpy(P), expected)
        np.testing.assert_array_equal(to_numpy(switches), where)
        np.testing.assert_array_equal(
            to_numpy(backend.take(xp.asarray(batch), switches, window)), expected
        )
        back = backend.unpool(P, switches.astype("int64"), window)
        np.testing.assert_array_equal(to_numpy(back), plain.unpool(expected, where, window))
    windows = [H[(..., *place)] for place in positions(window)]
    assert (where == np.argmax(windows, axis=0)).all()  # the first of the largest, NaN above all
    assert backend.pool(xp.asarray(H[:0]), window)[0].shape == (0, *expected.shape[1:])


def in_torch(model: Autoencoder, x: np.ndarray) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of the same model, with PyTorch's pooling."""
    arrays = {
        name: torch.tensor(np.ascontiguousarray(to_numpy(array)), requires_grad=True)
        for name, array in model.parameters.items()
    }
    spread = (slice(None), None, None)
    H = functional.conv2d(torch.tensor(x), arrays["0.kernel"], arrays["0.hidden_bias"], padding=1)
    H, first = functional.max_pool2d(torch.relu(H), 2, return_indices=True)
    H = torch.tanh(functional.conv2d(H, arrays["1.kernel"], arrays["1.hidden_bias"]))
    H, second = functional.max_pool2d(H, (1, 2), return_indices=True)
    D = functional.max_unpool2d(H, second, (1, 2), output_size=(3, 2))
    D = functional.conv_transpose2d(D, arrays["1.kernel"])
    D = torch.relu(D + arrays["1.visible_bias"][spread])
    D = functional.max_unpool2d(D, first, 2, output_size=(8, 6))
    A = functional.conv_transpose2d(D, arrays["0.kernel"], padding=1)
    R = torch.sigmoid(A + arrays["0.visible_bias"][spread])
    return functional.mse_loss(R, torch.tensor(x)), arrays


def test_gradients_against_autograd(xp: ModuleType, rng) -> None:
    model, x = model_of(xp), rng.random((9, 2, 8, 6))
    J, gradients = model.loss_and_gradients(xp.asarray(x))
    loss, arrays = in_torch(model, x)
    loss.backward()
    assert pytest.approx(float(loss.detach()), rel=1e-12) == J
    for name, array in gradients.items():
        np.testing.assert_allclose(to_numpy(array), arrays[name].grad.numpy(), atol=1e-12)


def test_gradients_of_a_penalised_code(rng) -> None:
    """By central differences: the code is the pooled one."""
    model, x, penalty = model_of(), rng.random((4, 2, 8, 6)), Penalty(l1=0.3)
    _, gradients = model.loss_and_gradients(x, penalty=penalty)
    for name in ("0.kernel", "1.kernel", "1.hidden_bias"):
        array = model.parameters[name]
        where = tuple(rng.integers(n) for n in array.shape)
        before, values = array[where], []
        for shift in (1e-6, -1e-6):
            array[where] = before + shift
            values.append(model.loss_and_gradients(x, penalty=penalty)[0])
        array[where] = before
        assert gradients[name][where] == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5)


@pytest.mark.parametrize("how", [{}, {"loss": "bce"}, {"spatial": True}])
def test_reconstructions_put_values_back(xp: ModuleType, rng, how: dict[str, Any]) -> None:
    model, x = model_of(xp, **how), xp.asarray(rng.random((3, 2, 8, 6)))
    assert model.code_shape == (3, 3, 1)
    H, switches = model.encode(x), model.switches(x)
    assert {found.dtype.name for found in switches} == {"int32"}
    expected = to_numpy(model.decode(model.winners(H), switches))
    np.testing.assert_allclose(to_numpy(model.reconstruct(x)), expected, atol=1e-14)
    np.testing.assert_allclose(to_numpy(model.evaluate(x)[1]), expected, atol=1e-14)
    assert model.reconstruct(x[:0]).shape == (0, 2, 8, 6)


def test_codes_alone_are_not_enough(rng) -> None:
    model = model_of()
    with pytest.raises(UserError, match="switches: this model pools"):
        model.decode(model.encode(rng.random((1, 2, 8, 6))))
    plain = Autoencoder((1, 4, 4), [Layer(2, 3)])
    assert plain.switches(np.zeros((2, 1, 4, 4), "float32")) == [None]


def test_a_classifier_pools(rng) -> None:
    layers = [LAYERS[0], Layer(filters=3, kernel="input", activation="identity")]
    model = Classifier((2, 8, 6), layers, dtype="float64")
    x, labels = rng.random((7, 2, 8, 6)), rng.integers(0, 3, 7)
    J, gradients = model.loss_and_gradients(x, labels)
    arrays = {
        name: torch.tensor(np.ascontiguousarray(array), requires_grad=True)
        for name, array in model.parameters.items()
    }
    H = functional.conv2d(torch.tensor(x), arrays["0.kernel"], arrays["0.hidden_bias"], padding=1)
    H = functional.max_pool2d(torch.relu(H), 2)
    Z = functional.conv2d(H, arrays["1.kernel"], arrays["1.hidden_bias"])[:, :, 0, 0]
    loss = functional.cross_entropy(Z, torch.tensor(labels))
    loss.backward()
    assert pytest.approx(float(loss.detach()), rel=1e-12) == J
    for name, array in gradients.items():
        np.testing.assert_allclose(array, arrays[name].grad.numpy(), atol=1e-12)


def test_it_trains(rng) -> None:
    model, x = model_of(), rng.random((20, 2, 8, 6))
    step = convae.TrainingStep(model, convae.Adam(learning_rate=1e-2))
    first = float(step(x))
    for _ in range(50):
        last = float(step(x))
    assert last < 0.8 * first


def test_saved_and_loaded(tmp_path, rng) -> None:
    model = model_of()
    model.save(tmp_path / "model.safetensors")
    again = convae.load(tmp_path / "model.safetensors")
    x = rng.random((2, 2, 8, 6))
    np.testing.assert_array_equal(again.reconstruct(x), model.reconstruct(x))


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        (3, r"layers.0.pool: \(3, 3\) does not divide the 8x6 positions"),
        (0, "layers.0.pool: 0 is too small"),
        ((2, 2, 2), "layers.0.pool"),
        ("two", "layers.0.pool"),
    ],
)
def test_windows_that_do_not_fit(pool: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Autoencoder((2, 8, 6), [Layer(filters=4, kernel=3, padding="same", pool=pool)])


def test_what_does_not_go_with_it(rng) -> None:
    model = model_of()
    with pytest.raises(UserError, match="layer 0 pools"):
        model.loss_and_gradients(rng.random((1, 2, 8, 6)), penalty=Penalty(contractive=0.1))
    with pytest.raises(UserError, match="init: 'pca' is for layers without pooling"):
        initialise(model, "pca", rng.random((9, 2, 8, 6)))
