"""The learning-rate range test."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from convae.configuration import OptimizerConfig
from convae.data.corruption import Corruption
from convae.data.datasets import load_dataset
from convae.training.build import build_model, build_parts, build_step
from convae.training.learning_rate_finder import STEPS, RangeTest, find_learning_rate
from tests.helpers import compose


def search(*overrides: str, optimizer: OptimizerConfig | None = None) -> RangeTest:
    """The range test on digits."""
    config = compose("model=conv", "dataset=digits", "device=cpu", *overrides)
    if optimizer is not None:
        config = replace(config, optimizer=optimizer)
    data = load_dataset(config.dataset)
    step = build_step(config, build_model(config, data.train.shape), build_parts(config))
    return find_learning_rate(step, data.train, Corruption(), 32, seed=0)


def test_the_steepest_rate_is_where_a_known_curve_falls_fastest() -> None:
    rates = np.geomspace(1e-6, 10, 100)
    x = np.log10(rates)
    losses = 1 / (1 + np.exp(4 * (x + 3))) + np.exp(3 * x)  # falls fastest at 1e-3, rises later
    assert 0.5e-3 < RangeTest(rates, losses).steepest < 2e-3


def test_it_finds_a_rate_that_learns_on_digits() -> None:
    found = search()
    assert 1e-4 < found.steepest < 1e-1
    assert found.png().startswith(b"\x89PNG")


def test_it_stops_when_the_loss_diverges() -> None:
    with np.errstate(all="ignore"):
        found = search("model.output_activation=identity", optimizer=OptimizerConfig("sgd", 1.0))
    assert len(found.rates) == len(found.losses) <= STEPS
    assert np.isfinite(found.losses).all()
