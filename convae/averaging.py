"""A moving average of a model's parameters (after Polyak and Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from convae.autoencoder import Autoencoder
from convae.engine import Array


class MovingAverage:
    """An exponential moving average over the steps of a run.

    Early averages forget faster, with the decay ``min(decay, (1 + t) / (10 + t))`` after t steps,
    so that the initial parameters do not linger.

    Parameters
    ----------
    model : Autoencoder
        The model in training.
    decay : float
        Part of the average that a step leaves, in (0, 1); 0.999 looks back about 1,000 steps.

    Attributes
    ----------
    parameters : (M,) ndarray
        The average of the model's `flat_parameters`.

    Raises
    ------
    ValueError
        If the decay is not between 0 and 1.
    """

    def __init__(self, model: Autoencoder, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"trainer.ema: {decay} will not do; use a number between 0 and 1")
        self._model = model
        self._decay = decay
        self.parameters: Array = model.flat_parameters.copy()

    def update(self, step: int) -> None:
        """Take in the model's parameters.

        Parameters
        ----------
        step : int
            Updates of the parameters done.
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        self.parameters += (1 - decay) * (self._model.flat_parameters - self.parameters)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model work with the average, for the body of a ``with`` statement."""
        own = self._model.flat_parameters.copy()
        self._model.flat_parameters[...] = self.parameters
        try:
            yield
        finally:
            self._model.flat_parameters[...] = own
