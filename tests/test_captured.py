"""The recorded step: on a GPU where there is one; its arithmetic everywhere, on the emulator."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import convae
from convae import Adam, AdamW, Layer, engine
from convae.engine import operations
from convae.engine.cpu.backend import backend as cpu
from convae.engine.gpu.backend import kernels
from convae.training import captured_step as captured
from tests.conftest import _cupy
from tests.engine import emulator
from tests.engine.test_direct import error

LAYERS = [
    Layer(4, 3, stride=2, padding="same", activation="tanh"),
    Layer(6, 3, padding="same", sharing="local"),
]


def model(device: str = "cpu", dtype: str = "float32") -> convae.Autoencoder:
    return convae.Autoencoder((1, 6, 6), LAYERS, dtype=dtype, device=device)


@pytest.fixture(params=["emulated", "gpu"])
def recorded(request: pytest.FixtureRequest, monkeypatch):
    """Make a recorded step; on the emulator its graph does again what was recorded."""
    if request.param == "gpu":
        _cupy()
        return lambda optimizer, batch: captured.CapturedStep(model("gpu"), optimizer, batch)
    monkeypatch.setattr(kernels, "THREADS", 8)  # threads of a processor take long to start
    gpu = emulator.backend(monkeypatch, emulator.cupy())
    monkeypatch.setattr(operations, "cpu", gpu)
    monkeypatch.setattr(convae.Autoencoder, "device", "gpu")
    record = captured.CapturedStep._record

    def replayed(self: captured.CapturedStep, body):
        def launch(stream: object) -> None:
            with gpu.own_kernels():
                body()

        record(self, body)
        return SimpleNamespace(launch=launch)

    monkeypatch.setattr(captured.CapturedStep, "_record", replayed)

    def make(optimizer: Adam, batch: int) -> captured.CapturedStep:
        parameters = model().flat_parameters.copy()
        step = captured.CapturedStep(model(), optimizer, batch)
        # on the emulator recording computes, too
        step.model.flat_parameters[...] = parameters
        for array in (step.adam.first, step.adam.second, step.adam.steps):
            array[...] = 0
        return step

    return make


@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_it_does_what_a_training_step_does(recorded, rng, kind) -> None:
    optimizer = kind(learning_rate=0.01, weight_decay=0.1)
    batches = [rng.random((5, 1, 6, 6), dtype="float32") for _ in range(4)]
    step = recorded(optimizer, 5)
    xp = step.model.xp
    losses = []
    for x in batches:
        step(xp.asarray(x))
        losses.append(float(step.loss()))
    parameters = engine.to_numpy(step.model.flat_parameters)
    step.set_learning_rate(0)
    step(xp.asarray(batches[0]))
    step.loss()
    again = engine.to_numpy(step.model.flat_parameters)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operations, "cpu", cpu)
        ours = convae.TrainingStep(
            model(dtype="float64"), kind(learning_rate=0.01, weight_decay=0.1)
        )
        expected = [float(ours(x.astype("float64"))) for x in batches]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert error(parameters, ours.model.flat_parameters) < 1e-5
    assert np.array_equal(parameters, again)


def test_what_cannot_be_recorded() -> None:
    with pytest.raises(TypeError, match=r"optimizer: .*use Adam or AdamW"):
        captured.CapturedStep(model(), convae.SGD(), 4)
    with pytest.raises(ValueError, match=r"model: .*device='gpu'"):
        captured.CapturedStep(model(), Adam(), 4)


def test_an_optimizer_that_has_done_steps_is_refused(recorded) -> None:
    optimizer = Adam()
    optimizer.steps = 3
    with pytest.raises(ValueError, match="optimizer: it has done 3 steps"):
        recorded(optimizer, 5)


def test_pixels_are_refused(recorded, rng) -> None:
    step = recorded(Adam(), 5)
    with pytest.raises(TypeError, match="x: dtype uint8"):
        step(step.model.xp.asarray(rng.integers(0, 256, (5, 1, 6, 6), dtype=np.uint8)))


def test_another_shape_is_refused(recorded, rng) -> None:
    step = recorded(Adam(), 5)
    with pytest.raises(ValueError, match=r"x: shape \(4, 1, 6, 6\).*recorded for \(5, 1, 6, 6\)"):
        step(step.model.xp.asarray(rng.random((4, 1, 6, 6), dtype="float32")))
