"""The step as a program does what a training step does; see test_step.py for that."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import convae
from convae import Adam, AdamW, Layer
from convae.engine import ArrayBackend
from convae.engine.program import Portable, Problem, Program, Way
from convae.models.penalties import NONE, Penalty
from convae.models.plans import MOST_PLANS
from convae.training.averaging import MovingAverage
from convae.training.optimizers import Optimizer
from convae.training.planned_step import PlannedEvaluation, PlannedStep

LAYERS = [
    Layer(4, 3, stride=2, padding="same", activation="tanh"),
    Layer(6, 3, padding="same", sharing="local", tied=False),
]


def model_of(dtype: str = "float64") -> convae.Autoencoder:
    return convae.Autoencoder((1, 6, 6), LAYERS, dtype=dtype, backend=ArrayBackend())


def steps_of(
    optimizer: Callable[[], Optimizer],
    clip_norm: float | None = None,
    penalty: Penalty = NONE,
    ema: float | None = None,
) -> tuple[convae.TrainingStep, PlannedStep]:
    """Make the plain step and the program, each with a model of its own."""
    made = []
    for _ in range(2):
        model = model_of()
        average = None if ema is None else MovingAverage(model, ema)
        made.append((model, optimizer(), clip_norm, penalty, average))
    portable = Portable(ArrayBackend())
    return convae.TrainingStep(*made[0]), PlannedStep(*made[1], lambda program: lambda p: portable)


@pytest.mark.parametrize(
    ("optimizer", "other"),
    [
        (lambda: Adam(0.01, weight_decay=0.1), {}),
        (lambda: AdamW(0.01, weight_decay=0.1), {"clip_norm": 1e-3, "ema": 0.9}),
        (lambda: convae.SGD(0.5), {"penalty": Penalty(l1=0.1, weight_decay=0.1)}),
        (lambda: convae.SGD(0.5, 0.1, momentum=0.9, nesterov=True), {"clip_norm": 1.0}),
    ],
)
@pytest.mark.parametrize("has_target", [False, True])
def test_it_follows_the_plain_step(optimizer, other: dict, has_target: bool, rng) -> None:
    """With batches of two sizes, whose arrays share memory, and a rate that changes."""
    plain, planned = steps_of(optimizer, **other)
    for index, examples in enumerate((5, 5, 3, 5, 3)):
        x = rng.random((examples, 1, 6, 6))
        target = rng.random(x.shape) if has_target else x
        for step in (plain, planned):
            step.optimizer.learning_rate *= 0.5 if index == 2 else 1
        expected, found = float(plain(x, target)), float(planned(x, target))
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert plain.optimizer.steps == planned.optimizer.steps == 5
    pairs = [(plain.model.flat_parameters, planned.model.flat_parameters)]
    pairs += [(plain.optimizer.state[n], planned.optimizer.state[n]) for n in plain.optimizer.state]
    if other.get("ema"):
        pairs.append((plain.average.parameters, planned.average.parameters))
    for expected, found in pairs:
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-13)


def test_the_optimizers_moments_are_its_own(rng) -> None:
    """A state that is put in their place, as by resuming, is what the next step reads."""
    _, planned = steps_of(lambda: Adam(0.01))
    x = rng.random((4, 1, 6, 6))
    planned(x, x)
    state = planned.optimizer.state
    assert np.abs(state["first_moment"]).max() > 0
    state["first_moment"] = np.full_like(state["first_moment"], 7.0)
    planned(x, x)
    assert state["first_moment"].min() > 6


def test_gradients_alone_change_nothing_else(rng) -> None:
    plain, planned = steps_of(lambda: Adam(0.01))
    x = rng.random((4, 1, 6, 6))
    before = planned.model.flat_parameters.copy()
    J = float(planned.gradients(x, x))
    expected = float(plain.model.accumulate_gradients(x))
    np.testing.assert_allclose(J, expected)
    np.testing.assert_allclose(planned.model.flat_gradients, plain.model.flat_gradients, atol=1e-14)
    assert (planned.model.flat_parameters == before).all()
    assert planned.optimizer.steps == 0


def test_a_gradient_that_is_not_finite_moves_nothing(rng) -> None:
    _, planned = steps_of(lambda: convae.SGD(0.1))
    x = rng.random((4, 1, 6, 6))
    x[0] = np.nan
    before = planned.model.flat_parameters.copy()
    assert np.isnan(float(planned(x, x)))
    assert (planned.model.flat_parameters == before).all()


@pytest.mark.parametrize("loss", ["mse", "bce", "l1", "ssim"])
def test_evaluations_share_the_memory_of_steps(loss: str, rng) -> None:
    """In turns, with batches of two sizes; reconstructions stay what they were."""
    model = convae.Autoencoder((1, 6, 6), LAYERS, loss=loss, dtype="float64")
    portable = Portable(ArrayBackend())

    def choose(program: Program) -> Callable[[Problem], Way]:
        return lambda problem: portable

    step = PlannedStep(model, Adam(0.01), None, NONE, None, choose)
    evaluation = PlannedEvaluation(model, choose, lambda executable: executable, step.plans.memory)
    kept = []
    for examples in (4, 2, 4):
        x, target = rng.random((2, examples, 1, 6, 6))
        step(x, x)
        J, R = evaluation(x, target)
        expected_J, expected_R = model.evaluate(x, target)
        np.testing.assert_allclose(float(J), float(expected_J), rtol=1e-12)
        kept.append((R, expected_R.copy()))
    for found, expected in kept:
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_few_plans_are_kept(rng) -> None:
    _, planned = steps_of(lambda: Adam(0.01))
    for examples in range(1, 2 * MOST_PLANS):
        x = rng.random((examples, 1, 6, 6))
        planned(x, x)
    assert len(planned.plans.kept) == MOST_PLANS


def test_a_changed_method_is_heeded(rng) -> None:
    """An optimizer's numbers can be changed between steps."""
    plain, planned = steps_of(lambda: convae.SGD(0.5, momentum=0.5))
    x = rng.random((4, 1, 6, 6))
    for step in (plain, planned):
        step(x, x)
        step.optimizer.momentum, step.optimizer.weight_decay = 0.9, 0.1
        step(x, x)
    np.testing.assert_allclose(planned.model.flat_parameters, plain.model.flat_parameters)
