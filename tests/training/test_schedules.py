"""Schedules against PyTorch's, step by step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convae.training.schedules import SCHEDULES

STEPS, EPOCH = 100, 10


def rates(name: str, **values: float) -> list[float]:
    made = SCHEDULES[name](**values)
    return [made.factor(step, STEPS, EPOCH) for step in range(STEPS)]


def pytorchs(build) -> list[float]:
    """Learning rates of a scheduler whose optimizer has a rate of 1."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
    scheduler = build(optimizer)
    seen = []
    for _ in range(STEPS):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


SAME = {
    "constant": ({}, lambda o: torch.optim.lr_scheduler.ConstantLR(o, 1.0)),
    "cosine": (
        {"final": 0.1},
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, STEPS, eta_min=0.1),
    ),
    "step": (
        {"every": 3, "decay": 0.5},
        lambda o: torch.optim.lr_scheduler.StepLR(o, 3 * EPOCH, gamma=0.5),
    ),
    "one_cycle": ({}, lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1.0, total_steps=STEPS)),
}


@pytest.mark.parametrize("name", SAME)
def test_schedules_follow_pytorchs(name: str) -> None:
    values, build = SAME[name]
    np.testing.assert_allclose(rates(name, **values), pytorchs(build), rtol=1e-9)


def test_plateau_follows_pytorchs(rng) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=2, threshold=0
    )
    ours = SCHEDULES["plateau"](patience=2, decay=0.5)
    for loss in np.cumsum(rng.normal(0, 1, 60)):
        ours.observe(float(loss))
        reference.step(float(loss))
        assert ours.factor(0, STEPS, EPOCH) == optimizer.param_groups[0]["lr"]
    assert ours.factor(0, STEPS, EPOCH) < 0.5


@pytest.mark.parametrize("name", SCHEDULES)
def test_warm_up_rises_in_equal_steps_and_never_from_zero(name: str) -> None:
    cold, warm = rates(name), rates(name, warmup=5)
    np.testing.assert_allclose(np.divide(warm, cold)[:6], [0.2, 0.4, 0.6, 0.8, 1, 1], rtol=1e-12)
    assert min(warm) > 0


def test_a_plateau_continues_from_its_state() -> None:
    first = SCHEDULES["plateau"](patience=1)
    for loss in (3, 2, 4, 5, 6):
        first.observe(loss)
    second = SCHEDULES["plateau"](patience=1)
    second.load_state(first.state())
    for loss in (1.5, 2, 3, 4):
        first.observe(loss)
        second.observe(loss)
        assert first.state() == second.state()


@pytest.mark.parametrize("name", sorted(set(SCHEDULES) - {"plateau"}))
def test_other_schedules_have_no_state(name: str) -> None:
    schedule = SCHEDULES[name]()
    schedule.observe(1.0)
    assert schedule.state() == {}


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("constant", {"warmup": -1}, "warmup: -1 is out of range"),
        ("cosine", {"final": 1.5}, "final: 1.5 is out of range"),
        ("step", {"every": 0}, "every: 0 is out of range"),
        ("one_cycle", {"rise": 1}, "rise: 1 is out of range"),
        ("one_cycle", {"start": 0}, "start: 0 is out of range"),
        ("plateau", {"decay": float("nan")}, "decay: nan is out of range"),
        ("plateau", {"patience": 1.5}, "patience: 1.5 is not an integer"),
    ],
)
def test_values_out_of_range_are_refused_by_name(name: str, values: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        SCHEDULES[name](**values)
