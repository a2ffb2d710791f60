"""The learning-rate range test."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import convae
from convae.configuration import OptimizerConfig
from convae.data.datasets import load_dataset
from convae.training.build import build_model, build_optimizer
from convae.training.learning_rate_finder import STEPS, RangeTest, find_learning_rate
from tests.test_configuration import compose


def test_the_steepest_rate_is_where_a_known_curve_falls_fastest() -> None:
    rates = np.geomspace(1e-6, 10, 100)
    x = np.log10(rates)
    losses = 1 / (1 + np.exp(4 * (x + 3))) + np.exp(3 * x)  # falls fastest at 1e-3, rises later
    assert 0.5e-3 < RangeTest(rates, losses).steepest < 2e-3


def test_it_finds_a_rate_that_learns_on_digits() -> None:
    config = compose("dataset=digits", "device=cpu")
    data = load_dataset(config.dataset)
    model = build_model(config, data.train.shape)
    found = find_learning_rate(model, build_optimizer(config.optimizer), data.train, config)
    assert 1e-4 < found.steepest < 1e-1
    assert found.png().startswith(b"\x89PNG")


def test_it_stops_when_the_loss_blows_up() -> None:
    config = compose("dataset=digits", "device=cpu", "model.output_activation=identity")
    config = replace(config, optimizer=OptimizerConfig("sgd", 1.0))
    data = load_dataset(config.dataset)
    model = build_model(config, data.train.shape)
    with np.errstate(all="ignore"):
        found = find_learning_rate(model, convae.SGD(1.0), data.train, config)
    assert len(found.rates) == len(found.losses) <= STEPS
    assert np.isfinite(found.losses).all()
