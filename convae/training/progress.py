"""How far a run has come, in values that a file can hold, and that are checked when it is read."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, get_origin, get_type_hints

import numpy as np

from convae.errors import UserError, check_range, prefixed, require_keys
from convae.training.schedules import check_state

LONGEST = 10**12
"""More steps than any run has."""


@dataclass
class LossSum:
    """A running sum of losses.

    Parameters
    ----------
    total : float or 0-d ndarray
        Sum of the batches' mean losses, each times its images; perhaps on the device.
    images : int
        Images counted.
    """

    total: Any = 0.0
    images: int = 0

    def add(self, loss: Any, images: int) -> None:
        """Add the mean loss of a batch, a 0-d array, without waiting for the device."""
        self.total = self.total + loss * images
        self.images += images

    def mean(self) -> float:
        """Mean loss over the images; waits for the device."""
        return float(self.total) / self.images


@dataclass
class Progress:
    """How far a run has come.

    Parameters
    ----------
    epoch : int
        Epochs completed.
    batch : int
        Batches done of the current epoch.
    step : int
        Updates of the parameters done.
    steps_per_epoch : int
        Updates that an epoch takes.
    best_epoch : int
        The epoch of the lowest validation loss so far; 0 for the start.
    best_loss : float
        That loss.
    searched_from : int
        The epoch after which the search for the best one began: 0, unless the loss was changed.
    whole, recent : LossSum
        Training losses of the current epoch, and since the last point of the curves.
    order : dict
        State of the generator that shuffles the images, at the start of the current epoch.
    schedule : dict
        State of the learning-rate schedule.
    run : str
        The run's id, which its states, its models and its summary carry; see `begin`.
    steps : int
        Steps of the whole run, as planned.
    data : dict
        Fingerprints of training, validation and test images.
    loss : str
        Name of the loss that `best_loss` is of.
    average : (M,) ndarray or None
        Moving average of the parameters when the state was saved, on the host.
    best : dict or None
        The parameters of the best epoch by name, on the host: with them the best model's file can
        be restored whatever happened to it.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    steps_per_epoch: int = 0
    best_epoch: int = 0
    best_loss: float = inf
    searched_from: int = 0
    whole: LossSum = field(default_factory=LossSum)
    recent: LossSum = field(default_factory=LossSum)
    order: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    run: str = ""
    steps: int = 0
    data: dict[str, str] = field(default_factory=dict)
    loss: str = ""
    average: np.ndarray[Any, Any] | None = None
    best: dict[str, np.ndarray[Any, Any]] | None = None

    @classmethod
    def fresh(cls, seed: int) -> Progress:
        """Return the start of a run, whose seed decides the order of the images."""
        return cls(order=dict(np.random.default_rng([seed, 2]).bit_generator.state))

    def plain(self) -> dict[str, Any]:
        """Return all fields but the arrays in plain values, ready for JSON."""
        values = dataclasses.asdict(dataclasses.replace(self, average=None, best=None))
        del values["average"], values["best"]
        for name in ("whole", "recent"):
            values[name]["total"] = float(values[name]["total"])
        return values

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Progress:
        """Rebuild what `plain` described; a `UserError` names a value that no run can have."""
        kinds = get_type_hints(cls)
        del kinds["average"], kinds["best"]
        require_keys("progress", values, kinds)
        for name, kind in kinds.items():
            mapping = kind is LossSum or get_origin(kind) is dict
            if not isinstance(values[name], dict if mapping else kind if kind is str else object):
                raise UserError(f"progress.{name}: {values[name]!r} is not a {kind}")
        for name in ("whole", "recent"):
            require_keys(f"progress.{name}", values[name], ("total", "images"))
        sums = {name: LossSum(**values[name]) for name in ("whole", "recent")}
        progress = cls(**{**values, **sums})
        with prefixed("progress."):
            progress._check()
        return progress

    def _check(self) -> None:
        counts = ("epoch", "batch", "step", "steps_per_epoch", "steps", "best_epoch")
        for name in (*counts, "searched_from"):
            check_range(name, getattr(self, name), at_least=0, at_most=LONGEST, integer=True)
        if self.step:
            check_range("steps_per_epoch", self.steps_per_epoch, at_least=1, integer=True)
        check_range("batch", self.batch, at_least=0, at_most=self.steps_per_epoch, integer=True)
        check_range("epoch", self.epoch, at_least=0, at_most=self.step, integer=True)
        check_range("best_epoch", self.best_epoch, at_least=0, at_most=self.epoch, integer=True)
        if self.best_epoch or self.best_loss != inf:
            check_range("best_loss", self.best_loss)
        for name in ("whole", "recent"):
            losses = getattr(self, name)
            check_range(f"{name}.total", losses.total)
            check_range(f"{name}.images", losses.images, at_least=0, integer=True)
        if not re.fullmatch(r"[0-9a-f]{16}", self.run):
            raise UserError(f"run: {self.run!r} is not an id")
        require_keys("data", self.data, ("train", "validation", "test"))
        for name, digest in self.data.items():
            if not isinstance(digest, str):
                raise UserError(f"data.{name}: {digest!r} is not a fingerprint")
        check_state(self.schedule)
        rng = np.random.default_rng()
        try:
            rng.bit_generator.state = self.order
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise UserError(f"order: no state of a generator ({error!r})") from None
        if rng.bit_generator.state != self.order or self.order["has_uint32"] not in (0, 1):
            raise UserError("order: no state of a generator, such as has_uint32")
