"""How the learning rate changes over a run: a factor on the optimizer's rate for every step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from math import cos, inf, isfinite, pi
from typing import Any

RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "warmup": (lambda x: x >= 0, "0 or more steps"),
    "final": (lambda x: 0 <= x <= 1, "a factor from 0 to 1"),
    "start": (lambda x: 0 < x <= 1, "a factor over 0, up to 1"),
    "every": (lambda x: x >= 1, "1 or more epochs"),
    "decay": (lambda x: 0 < x <= 1, "a factor over 0, up to 1"),
    "rise": (lambda x: 0 < x < 1, "a part of the run between 0 and 1"),
    "patience": (lambda x: x >= 0, "0 or more epochs"),
}
"""What each argument of a schedule may be."""


@dataclass
class Schedule:
    """A constant learning rate, after a linear warm-up if there is one.

    Parameters
    ----------
    warmup : int
        Steps over which the rate rises from ``1 / warmup`` of its value to the whole of it.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """

    warmup: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.init and not (isfinite(value) and RANGES[field.name][0](value)):
                wanted = RANGES[field.name][1]
                raise ValueError(f"{field.name}: {value} will not do; use {wanted}")

    def factor(self, step: int, steps: int, steps_per_epoch: int) -> float:
        """Give the factor on the learning rate of one step.

        Parameters
        ----------
        step : int
            Steps done before it.
        steps : int
            Steps of the whole run.
        steps_per_epoch : int
            Steps of an epoch.

        Returns
        -------
        float
            The factor, over 0.
        """
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return warm * self._factor(step, steps, steps_per_epoch)

    def _factor(self, step: int, steps: int, steps_per_epoch: int) -> float:
        return 1.0

    def observe(self, validation_loss: float) -> None:
        """Take note of an epoch's validation loss; only a plateau's schedule does.

        Parameters
        ----------
        validation_loss : float
            The loss.
        """

    def state(self) -> dict[str, Any]:
        """Describe what the schedule has taken note of, in plain values.

        Returns
        -------
        dict
            Attributes by name; empty where nothing is remembered.
        """
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if not f.init}


@dataclass
class Cosine(Schedule):
    """Half a cosine from 1 down to a final factor (Loshchilov and Hutter 2017, without restarts).

    Parameters
    ----------
    warmup : int
        As in `Schedule`.
    final : float
        The factor that the end approaches.
    """

    final: float = 0.0

    def _factor(self, step: int, steps: int, steps_per_epoch: int) -> float:
        return self.final + (1 - self.final) * 0.5 * (1 + cos(pi * min(step / steps, 1)))


@dataclass
class StepDecay(Schedule):
    """A fall by a constant factor every so many epochs.

    Parameters
    ----------
    warmup : int
        As in `Schedule`.
    every : int
        Epochs from one fall to the next.
    decay : float
        The factor of each fall.
    """

    every: int = 10
    decay: float = 0.1

    def _factor(self, step: int, steps: int, steps_per_epoch: int) -> float:
        return float(self.decay ** (step // steps_per_epoch // self.every))


@dataclass
class OneCycle(Schedule):
    """Up and down once in two half cosines (Smith and Topin 2018, in PyTorch's form).

    Parameters
    ----------
    warmup : int
        As in `Schedule`; the cycle brings a warm-up of its own.
    rise : float
        Part of the run in which the rate rises.
    start, final : float
        Factors at the beginning and at the end; the peak is 1.
    """

    rise: float = 0.3
    start: float = 1 / 25
    final: float = 1 / 250_000

    def _factor(self, step: int, steps: int, steps_per_epoch: int) -> float:
        peak = self.rise * steps - 1
        if step <= peak:
            return _cosine_between(self.start, 1, step / max(peak, 1))
        return _cosine_between(1, self.final, (step - peak) / max(steps - 1 - peak, 1))


@dataclass
class Plateau(Schedule):
    """A fall by a constant factor whenever the validation loss has stopped falling.

    Parameters
    ----------
    warmup : int
        As in `Schedule`.
    patience : int
        Epochs without improvement that are let pass.
    decay : float
        The factor of each fall.

    Attributes
    ----------
    lowest : float
        The lowest validation loss so far.
    waited : int
        Epochs since it was reached, or since the last fall.
    current : float
        The factor now.
    """

    patience: int = 5
    decay: float = 0.5
    lowest: float = dataclasses.field(default=inf, init=False)
    waited: int = dataclasses.field(default=0, init=False)
    current: float = dataclasses.field(default=1.0, init=False)

    def _factor(self, step: int, steps: int, steps_per_epoch: int) -> float:
        return self.current

    def observe(self, validation_loss: float) -> None:
        """Take note of an epoch's validation loss, and fall if patience is at its end.

        Parameters
        ----------
        validation_loss : float
            The loss.
        """
        if validation_loss < self.lowest:
            self.lowest, self.waited = validation_loss, 0
            return
        self.waited += 1
        if self.waited > self.patience:
            self.current, self.waited = self.current * self.decay, 0


def _cosine_between(first: float, last: float, part: float) -> float:
    return last + (first - last) * 0.5 * (1 + cos(pi * min(part, 1)))


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": Schedule,
    "cosine": Cosine,
    "step": StepDecay,
    "one_cycle": OneCycle,
    "plateau": Plateau,
}
