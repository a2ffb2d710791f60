"""A moving average of a model's parameters (after Polyak and Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from convae.engine import Array
from convae.errors import check_range
from convae.models.model import Model


class MovingAverage:
    """An exponential moving average over the steps of a run.

    Early averages forget faster, with the decay ``min(decay, (1 + t) / (10 + t))`` after t steps,
    so that the initial parameters fade quickly.

    Parameters
    ----------
    model : Model
        The model in training.
    decay : float
        Fraction of the average kept by each step, in (0, 1); 0.999 averages about 1,000 steps.

    Attributes
    ----------
    parameters : (M,) ndarray
        The average of the model's `flat_parameters`.

    Raises
    ------
    UserError
        If the decay is not between 0 and 1.
    """

    def __init__(self, model: Model, decay: float) -> None:
        check_range("decay", decay, over=0, below=1)
        self._model = model
        self._decay = decay
        self.parameters: Array = model.flat_parameters.copy()

    def update(self, step: int) -> None:
        """Update the average.

        Parameters
        ----------
        step : int
            Steps of training done.
        """
        self.parameters += self.rate(step) * (self._model.flat_parameters - self.parameters)

    def rate(self, step: int) -> float:
        """Return which fraction of the new parameters enters the average.

        Parameters
        ----------
        step : int
            Steps of training done.

        Returns
        -------
        float
            One minus the decay.
        """
        return 1 - min(self._decay, (1 + step) / (10 + step))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the average in place of the model's parameters, for a ``with`` block."""
        own = self._model.flat_parameters.copy()
        self._model.flat_parameters[...] = self.parameters
        try:
            yield
        finally:
            self._model.flat_parameters[...] = own
