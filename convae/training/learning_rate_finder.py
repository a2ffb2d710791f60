"""The learning-rate range test (Smith 2017): rising rates, and the losses that they give."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, count, islice
from math import isfinite
from typing import Any

import numpy as np
from tqdm import tqdm

from convae.data.pictures import to_floats
from convae.data.splits import Split, own_batches, shuffled
from convae.engine import Array
from convae.errors import DivergenceError
from convae.processes import Share
from convae.report.pictures import figure_png
from convae.training.step import TrainingStep
from convae.training.tasks import Task

LOWEST, HIGHEST, STEPS = 1e-6, 10.0, 120
"""The rates that are tried, and how many; they are spaced geometrically."""

SMOOTHING = 0.9
"""Fraction of the running mean of the losses that each step keeps."""

DIVERGED = 4.0
"""The test ends when the running mean exceeds so many times its minimum."""


@dataclass(frozen=True)
class RangeTest:
    """The rates tried and their losses.

    Parameters
    ----------
    rates : (T,) ndarray
        Learning rates per step, rising.
    losses : (T,) ndarray
        Running mean of the loss, before each rate's step.
    """

    rates: np.ndarray[Any, Any]
    losses: np.ndarray[Any, Any]

    @property
    def steepest(self) -> float:
        """The rate at which the loss falls fastest, by the logarithm of the rate."""
        lowest = int(np.argmin(self.losses))
        slopes = np.gradient(self.losses[: max(lowest + 1, 2)])
        return float(self.rates[int(np.argmin(slopes))])

    def png(self) -> bytes:
        """Draw the losses over the rates."""

        def draw(axes: Any) -> None:
            axes.plot(self.rates, self.losses)
            axes.axvline(self.steepest, linestyle="--", label=f"steepest: {self.steepest:.1e}")
            axes.set(xscale="log", xlabel="learning rate", ylabel="loss (running mean)")
            axes.legend()

        return figure_png(draw)


def find_learning_rate(
    step: TrainingStep, train: Split, task: Task, batch_size: int, seed: int
) -> RangeTest:
    """Train with rising rates until the loss diverges; model and optimizer are spoilt by it.

    What a batch's loss was before training is known from a first pass, and divided out: near a good
    start batches differ by more than a step can gain.
    """
    model = step.model

    def batches() -> Iterator[tuple[Array, Array, Share]]:
        rng = np.random.default_rng([seed, 2])
        orders = (shuffled(train, rng) for _ in count())
        epochs = (own_batches(train, batch_size, step.group, order) for order in orders)
        for index, batch in enumerate(islice(chain.from_iterable(epochs), STEPS)):
            x = to_floats(batch.pixels, model.backend, model.dtype)
            yield *task.batch(x, batch.positions, index, batch.share), batch.share

    before = np.array([float(step.measure(*batch)) for batch in batches()])
    scales = before.mean() / np.maximum(before, np.finfo("float32").tiny)
    hidden = None if step.group.is_first else True
    rates = np.geomspace(LOWEST, HIGHEST, STEPS)
    losses: list[float] = []
    mean = 0.0
    for index, batch in enumerate(
        tqdm(batches(), desc="learning rates", total=STEPS, unit=" steps", disable=hidden)
    ):
        step.optimizer.learning_rate = float(rates[index])
        try:
            loss = float(step(*batch)) * scales[index]
        except DivergenceError:
            break
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smooth = mean / (1 - SMOOTHING ** (index + 1))
        if not isfinite(loss) or (losses and smooth > DIVERGED * min(losses)):
            break
        losses.append(smooth)
    return RangeTest(rates[: len(losses)], np.array(losses))
