"""The learning-rate range test."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import convae
from convae.configuration import OptimizerConfig
from convae.data.corruption import Corruption
from convae.data.datasets import load_dataset
from convae.data.splits import InMemory
from convae.report.fixed_images import FixedImages
from convae.training.build import build_model, build_parts, build_step
from convae.training.choices import choose
from convae.training.learning_rate_finder import STEPS, RangeTest, find_learning_rate
from convae.training.start import start
from convae.training.step import TrainingStep
from convae.training.tasks import Reconstruction
from tests.helpers import compose


def task_of(split: InMemory) -> Reconstruction:
    """Reconstruct images without noise."""
    return Reconstruction(Corruption(), FixedImages(split, 1, Corruption()))


def search(*overrides: str, optimizer: OptimizerConfig | None = None) -> RangeTest:
    """The range test."""
    config = compose("device=cpu", *overrides)
    if optimizer is not None:
        config = replace(config, optimizer=optimizer)
    data = load_dataset(config.dataset)
    config = choose(config, data).config
    model = build_model(config, data.train.shape)
    start(model, config, data)
    step = build_step(config, model, build_parts(config))
    return find_learning_rate(step, data.train, task_of(data.train), 32, seed=0)


def test_the_steepest_rate_is_where_a_known_curve_falls_fastest() -> None:
    rates = np.geomspace(1e-6, 10, 100)
    x = np.log10(rates)
    losses = 1 / (1 + np.exp(4 * (x + 3))) + np.exp(3 * x)  # falls fastest at 1e-3, rises later
    assert 0.5e-3 < RangeTest(rates, losses).steepest < 2e-3


@pytest.mark.parametrize("words", [("model=conv", "init=he"), ("model=auto", "init=pca")])
def test_it_finds_a_rate_that_learns_on_digits(words: tuple[str, ...]) -> None:
    found = search(*words)
    assert 1e-4 < found.steepest < 1e-1
    assert found.png().startswith(b"\x89PNG")


def test_batches_that_differ_do_not_hide_what_steps_gain() -> None:
    """At rates that change nothing the loss stays where it was, whatever the batch."""
    losses = search("model=auto", "init=pca", "optimizer=adam").losses
    assert np.ptp(losses[:10]) < 1e-3 * losses[0]
    assert losses.min() < 0.95 * losses[0]


def test_images_without_a_loss_are_no_trouble() -> None:
    model = convae.Autoencoder((1, 4, 4), [convae.Layer(2, 2)], output_activation="identity")
    model.parameters["0.kernel"][...] = 0
    step = TrainingStep(model, convae.Adam(1e-3))
    black = InMemory(np.zeros((20, 1, 4, 4), np.uint8))
    found = find_learning_rate(step, black, task_of(black), 8, seed=0)
    assert np.isfinite(found.losses).all()
    assert 0 < found.steepest <= 10


def test_it_stops_when_the_loss_diverges() -> None:
    with np.errstate(all="ignore"):
        found = search(
            "model=conv", "model.output_activation=identity", optimizer=OptimizerConfig("sgd", 1.0)
        )
    assert len(found.rates) == len(found.losses) <= STEPS
    assert np.isfinite(found.losses).all()
