"""The recorded step."""

from __future__ import annotations

import numpy as np
import pytest

import convae
from convae import Adam, AdamW, Layer, engine
from convae.engine import ArrayBackend
from convae.engine.gpu.cuda import KernelBackend
from convae.training.captured_step import CapturedStep
from tests.helpers import error

LAYERS = [
    Layer(4, 3, stride=2, padding="same", activation="tanh"),
    Layer(6, 3, padding="same", sharing="local"),
]


def model_on(backend: engine.Backend | None, dtype: str = "float32") -> convae.Autoencoder:
    return convae.Autoencoder((1, 6, 6), LAYERS, dtype=dtype, backend=backend)


@pytest.fixture
def model(cuda_backend: KernelBackend) -> convae.Autoencoder:
    return model_on(cuda_backend)


@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_it_does_what_a_training_step_does(model, rng, kind) -> None:
    """The training step follows PyTorch's; see test_step.py."""
    how = {"learning_rate": 0.01, "weight_decay": 0.1}
    ours = convae.TrainingStep(model_on(None, "float64"), kind(**how))
    step = CapturedStep(model, kind(**how), 5)
    initial = engine.to_numpy(model.flat_parameters)
    assert error(initial, ours.model.flat_parameters) < 1e-6  # recording has changed nothing
    batches = [rng.random((5, 1, 6, 6), dtype="float32") for _ in range(4)]
    losses = []
    for x in batches:
        step(model.xp.asarray(x))
        losses.append(float(step.loss()))
    expected = [float(ours(x.astype("float64"))) for x in batches]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert error(model.flat_parameters, ours.model.flat_parameters) < 1e-5


def test_the_learning_rate_can_be_changed_between_steps(model, rng) -> None:
    step = CapturedStep(model, Adam(learning_rate=0.01), 5)
    x = model.xp.asarray(rng.random((5, 1, 6, 6), dtype="float32"))
    step(x)
    step.loss()
    before = model.flat_parameters.copy()
    step.set_learning_rate(0)
    step(x)
    step.loss()
    assert (model.flat_parameters == before).all()
    step.set_learning_rate(0.01)
    step(x)
    step.loss()
    assert (model.flat_parameters != before).any()


@pytest.mark.parametrize("backend", [None, ArrayBackend()])
def test_other_backends_and_optimizers_are_refused(backend: engine.Backend | None) -> None:
    with pytest.raises(TypeError, match=r"optimizer: SGD.* Adam or AdamW"):
        CapturedStep(model_on(backend), convae.SGD(), 4)
    with pytest.raises(ValueError, match=r"model: Autoencoder.*float32 .*CUDA kernels"):
        CapturedStep(model_on(backend), Adam(), 4)


def test_an_optimizer_that_has_done_steps_is_refused(model) -> None:
    optimizer = Adam()
    optimizer.steps = 3
    with pytest.raises(ValueError, match=r"optimizer: .* 3 steps"):
        CapturedStep(model, optimizer, 5)


def test_batches_that_do_not_fit_are_refused(model, rng) -> None:
    step, xp = CapturedStep(model, Adam(), 5), model.xp
    with pytest.raises(TypeError, match="x: dtype uint8"):
        step(xp.asarray(rng.integers(0, 256, (5, 1, 6, 6), dtype=np.uint8)))
    with pytest.raises(ValueError, match=r"x: shape \(4, 1, 6, 6\).*\(5, 1, 6, 6\)"):
        step(xp.asarray(rng.random((4, 1, 6, 6), dtype="float32")))
