"""Activations stored in two bytes: on a GPU where there is one, and with NumPy in CuPy's place."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import convae
from convae import Layer, engine
from convae.engine import operations
from convae.engine.cpu.backend import backend as cpu
from convae.models.penalties import Penalty
from tests.conftest import _cupy
from tests.engine import emulator
from tests.engine.test_direct import error

SHAPE = (2, 9, 8)
LAYERS = [
    Layer(8, 3, stride=2, padding="same", activation="relu"),
    Layer(12, 3, padding="same", activation="tanh", hidden_bias="position"),
]
TOLERANCE = {"float16": 3e-3, "bfloat16": 1e-2}


@pytest.fixture(params=["numpy", "gpu"])
def build(request: pytest.FixtureRequest, monkeypatch):
    """Make a float32 model with a given storage."""
    pytest.importorskip("ml_dtypes", reason="ml_dtypes, which has bfloat16, is not installed")
    if request.param == "gpu":
        _cupy()
        return lambda storage: convae.Autoencoder(SHAPE, LAYERS, device="gpu", storage=storage)
    gpu = emulator.backend(monkeypatch, np)
    monkeypatch.setattr(operations, "cpu", gpu)
    monkeypatch.setattr(operations, "CPU_DTYPES", operations.GPU_DTYPES)
    monkeypatch.setattr(convae.Autoencoder, "device", "gpu")

    def make(storage: str) -> convae.Autoencoder:
        model = convae.Autoencoder(SHAPE, LAYERS)
        model.storage = storage
        return model

    return make


def exact(x: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and gradients in float64 on the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operations, "cpu", cpu)
        model = convae.Autoencoder(SHAPE, LAYERS, dtype="float64")
        return model.loss_and_gradients(x.astype("float64"))


@pytest.mark.parametrize("storage", TOLERANCE)
def test_loss_and_gradients_are_close(build, rng, storage: str) -> None:
    x = rng.random((64, *SHAPE), dtype="float32")
    model = build(storage)
    loss, gradients = model.loss_and_gradients(model.xp.asarray(x))
    expected, wanted = exact(x)
    assert loss == pytest.approx(expected, rel=TOLERANCE[storage])
    for name, gradient in gradients.items():
        assert gradient.dtype == "float32"
        assert error(engine.to_numpy(gradient), wanted[name]) < TOLERANCE[storage], name


@pytest.mark.parametrize("storage", TOLERANCE)
def test_codes_and_reconstructions_come_as_float32(build, rng, storage: str) -> None:
    model = build(storage)
    x = model.xp.asarray(rng.random((3, *SHAPE), dtype="float32"))
    H = model.encode(x)
    assert H.dtype == model.decode(H).dtype == model.reconstruct(x).dtype == "float32"


def test_what_is_added_for_codes_is_refused(build, rng) -> None:
    model = build("bfloat16")
    x = model.xp.asarray(rng.random((3, *SHAPE), dtype="float32"))
    with pytest.raises(ValueError, match=r"penalty: .*storage='bfloat16'"):
        model.loss_and_gradients(x, penalty=Penalty(l1=0.1))
    model.loss_and_gradients(x, penalty=Penalty(weight_decay=0.1))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"storage": "int8"}, "storage: 'int8' is unknown; use float16 or bfloat16"),
        ({"storage": "bfloat16"}, "storage: .* float32 on the cpu"),
        ({"storage": "float16", "dtype": "float64"}, "storage: .* float64 on the cpu"),
    ],
)
def test_where_there_is_no_such_thing(arguments: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        convae.Autoencoder(SHAPE, LAYERS, **arguments)


def test_a_copy_stores_alike() -> None:
    if engine.missing_gpu():
        assert copy.deepcopy(convae.Autoencoder(SHAPE, LAYERS)).storage == "float32"
        return
    model = convae.Autoencoder(SHAPE, LAYERS, device="gpu", storage="float16")
    assert copy.deepcopy(model).storage == "float16"
