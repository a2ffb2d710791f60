"""The learning-rate range test (Smith 2017): rising rates, and the losses that they give."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from math import isfinite
from typing import Any

import numpy as np
from tqdm import tqdm

from convae.autoencoder import Autoencoder
from convae.build import build_corruption, build_penalty
from convae.configuration import Config
from convae.corruption import Use
from convae.optimizers import Optimizer
from convae.pictures import figure_png
from convae.splits import Split, to_floats
from convae.step import TrainingStep

LOWEST, HIGHEST, STEPS = 1e-6, 10.0, 120
"""The rates that are tried: so many, in equal ratios."""

SMOOTHING = 0.9
"""Part of the running mean of the losses that a step leaves."""

BLOWN_UP = 4.0
"""The test ends when the running mean is so many times its least."""


@dataclass(frozen=True)
class RangeTest:
    """Rates tried, and what came of them.

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
        """Draw the losses over the rates.

        Returns
        -------
        bytes
            A PNG file.
        """

        def draw(axes: Any) -> None:
            axes.plot(self.rates, self.losses)
            axes.axvline(self.steepest, linestyle="--", label=f"steepest: {self.steepest:.1e}")
            axes.set(xscale="log", xlabel="learning rate", ylabel="loss (running mean)")
            axes.legend()

        return figure_png(draw)


def find_learning_rate(
    model: Autoencoder, optimizer: Optimizer, train: Split, config: Config
) -> RangeTest:
    """Train with rising rates until the loss blows up.

    Parameters
    ----------
    model : Autoencoder
        Spoilt by the test.
    optimizer : Optimizer
        Fresh; spoilt too.
    train : Split
        Training images.
    config : Config
        Batch size, corruption, penalty and seed are taken from it.

    Returns
    -------
    RangeTest
        The rates tried and their losses.
    """
    step = TrainingStep(model, optimizer, config.trainer.clip_norm, build_penalty(config))
    corruption = build_corruption(config)
    rng = np.random.default_rng([config.seed, 2])

    def endless() -> Any:
        while True:
            yield from train.batches(config.trainer.batch_size, rng)

    rates = np.geomspace(LOWEST, HIGHEST, STEPS)
    losses: list[float] = []
    mean = 0.0
    batches = islice(endless(), STEPS)
    for index, pixels in enumerate(
        tqdm(batches, desc="learning rates", total=STEPS, unit=" steps", disable=None)
    ):
        optimizer.learning_rate = float(rates[index])
        x = to_floats(pixels, model.xp, model.dtype)
        loss = float(step(corruption(x, Use.TRAINING, index), target=x))
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smooth = mean / (1 - SMOOTHING ** (index + 1))
        if not isfinite(loss) or (losses and smooth > BLOWN_UP * min(losses)):
            break
        losses.append(smooth)
    return RangeTest(rates[: len(losses)], np.array(losses))
