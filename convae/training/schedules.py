"""Learning-rate schedules: a factor on the optimizer's rate for every step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import cos, inf, pi
from typing import Any

from convae.errors import check_range

RANGES: dict[str, dict[str, Any]] = {
    "warmup": {"at_least": 0, "integer": True},
    "final": {"at_least": 0, "at_most": 1},
    "start": {"over": 0, "at_most": 1},
    "every": {"at_least": 1, "integer": True},
    "decay": {"over": 0, "at_most": 1},
    "rise": {"over": 0, "below": 1},
    "patience": {"at_least": 0, "integer": True},
}
"""Range of each argument of a schedule, as `convae.errors.check_range` takes it."""


REMEMBERED: dict[str, dict[str, Any]] = {
    "waited": {"at_least": 0, "integer": True},
    "current": {"over": 0, "at_most": 1},
}
"""The same for what a schedule has to remember."""


@dataclass
class Schedule:
    """A constant learning rate, after a linear warm-up if there is one.

    Parameters
    ----------
    warmup : int
        Steps over which the rate rises linearly from ``1 / warmup`` of its value.

    Raises
    ------
    UserError
        If an argument is out of range.
    """

    warmup: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        for field in dataclasses.fields(self):
            if field.init:
                check_range(field.name, getattr(self, field.name), **RANGES[field.name])

    def factor(self, step: int, steps: int, steps_per_epoch: int) -> float:
        """Compute the factor on the learning rate of one step.

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
        """Observe an epoch's validation loss; only `Plateau` reacts.

        Parameters
        ----------
        validation_loss : float
            The loss.
        """

    def state(self) -> dict[str, Any]:
        """Return what the schedule has to remember, in plain values by name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if not f.init}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned.

        Parameters
        ----------
        state : mapping
            Values by name; others are left alone.
        """
        for field in dataclasses.fields(self):
            if not field.init and field.name in state:
                setattr(self, field.name, state[field.name])


@dataclass
class Cosine(Schedule):
    """Half a cosine from 1 down to a final factor (Loshchilov and Hutter 2017, without restarts).

    Parameters
    ----------
    warmup : int
        As in `Schedule`.
    final : float
        The factor at the end.
    """

    final: float = 0.0

    def _factor(self, step: int, steps: int, steps_per_epoch: int) -> float:
        return self.final + (1 - self.final) * 0.5 * (1 + cos(pi * min(step / steps, 1)))


@dataclass
class StepDecay(Schedule):
    """Decay by a constant factor every so many epochs.

    Parameters
    ----------
    warmup : int
        As in `Schedule`.
    every : int
        Epochs from one decay to the next.
    decay : float
        The factor of each decay.
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
        As in `Schedule`; the cycle has a warm-up of its own.
    rise : float
        Fraction of the run in which the rate rises.
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
    """Decay by a constant factor whenever the validation loss has stopped falling.

    Parameters
    ----------
    warmup : int
        As in `Schedule`.
    patience : int
        Epochs without improvement that are tolerated.
    decay : float
        The factor of each decay.

    Attributes
    ----------
    lowest : float
        The lowest validation loss so far.
    waited : int
        Epochs since it was reached, or since the last decay.
    current : float
        The current factor.
    """

    patience: int = 5
    decay: float = 0.5
    lowest: float = dataclasses.field(default=inf, init=False)
    waited: int = dataclasses.field(default=0, init=False)
    current: float = dataclasses.field(default=1.0, init=False)

    def _factor(self, step: int, steps: int, steps_per_epoch: int) -> float:
        return self.current

    def observe(self, validation_loss: float) -> None:
        """Observe an epoch's validation loss, and decay when the patience is exhausted.

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


def check_state(state: Mapping[str, Any]) -> None:
    """Refuse what `Schedule.state` cannot have returned."""
    for name, value in state.items():
        if name != "lowest":
            check_range(f"schedule.{name}", value, **REMEMBERED[name])
        elif value != inf:  # before the first epoch
            check_range("schedule.lowest", value)


def _cosine_between(first: float, last: float, part: float) -> float:
    return last + (first - last) * 0.5 * (1 + cos(pi * min(part, 1)))


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": Schedule,
    "cosine": Cosine,
    "step": StepDecay,
    "one_cycle": OneCycle,
    "plateau": Plateau,
}
