"""The training step on a GPU: a recorded program of certified ways, checked at the beginning."""

from __future__ import annotations

import logging
from collections import Counter
from math import isfinite
from typing import TYPE_CHECKING

from convae.engine import Array
from convae.engine.gpu.choice import Choice
from convae.engine.gpu.recording import Recorded
from convae.engine.program import Executable
from convae.errors import DeviceError, counted
from convae.models.autoencoder import Autoencoder
from convae.training.planned_step import PlannedEvaluation, PlannedStep

if TYPE_CHECKING:
    from convae.training.step import TrainingStep

log = logging.getLogger("convae")

COMPARED = 2
"""Steps at the beginning whose gradients are compared with the plain step's."""

TOLERANCE = {"float32": 1e-4, "float64": 1e-10, "float16": 5e-2, "bfloat16": 1e-1}
"""Largest difference of the gradients, relative to their norm, by the type of the activations."""

TF32_TOLERANCE = 2e-2
"""The same where factors are rounded to TF32."""


class GpuStep:
    """Does the steps of a `TrainingStep` on a GPU.

    Parameters
    ----------
    step : TrainingStep
        Model, optimizer and the rest; its `portable` is what results are compared with.
    is_forced : bool
        Whether a difference is an error, instead of a reason to use `portable` from then on.
    """

    def __init__(self, step: TrainingStep, is_forced: bool) -> None:
        self._step, self._is_forced = step, is_forced
        model, choice = step.model, Choice(step.model.backend)
        assert isinstance(model, Autoencoder)
        parts = (step.optimizer, step.clip_norm, step.penalty, step.average)
        self.program = PlannedStep(model, *parts, choice, record)
        self._evaluation = PlannedEvaluation(model, choice, Recorded, self.program.plans.memory)
        self._is_evaluation_compared = False
        self._left_to_compare = COMPARED
        self._is_refused = False
        tf32 = getattr(model.backend, "tf32", False) and model.storage is None
        self._tolerance = TF32_TOLERANCE if tf32 else TOLERANCE[model.storage or model.dtype]

    def __call__(self, x: Array, target: Array) -> Array:
        """Do one step on checked images; returns the loss before the update, on the device."""
        self._compare_first(x, target)
        if self._is_refused:
            return self._step.portable(x, target)
        return self.program(x, target)

    def gradients(self, x: Array, target: Array) -> Array:
        """Leave the gradients in the model's `flat_gradients`, and return the loss; no more."""
        self._compare_first(x, target)
        if self._is_refused:
            return self._step.model.accumulate_gradients(x, target, self._step.penalty)
        return self.program.gradients(x, target)

    def _compare_first(self, x: Array, target: Array) -> None:
        """Compare the first steps with array code's."""
        if self._left_to_compare and not self._is_refused:
            self._left_to_compare -= 1
            self.program.plan(x, target)  # certified before array code takes its memory
            self._compare(x, target)

    def evaluate(self, x: Array, target: Array) -> tuple[Array, Array]:
        """Do what `convae.Autoencoder.evaluate` does, on checked images."""
        model = self._step.model
        if self._is_refused:
            return model.evaluate(x, target)
        J, R = self._evaluation(x, target)
        if not self._is_evaluation_compared:
            self._is_evaluation_compared = True
            plain_J, plain_R = model.evaluate(x, target)
            norm = float(model.xp.linalg.norm(plain_R))
            error = float(model.xp.linalg.norm(R - plain_R)) / (norm or 1.0)
            self._judge("an evaluation", error, (float(J), float(plain_J)), norm)
            if self._is_refused:
                return plain_J, plain_R
        return J, R

    def _compare(self, x: Array, target: Array) -> None:
        """Compare loss and gradients of a batch with the plain step's."""
        model = self._step.model
        J = float(model.accumulate_gradients(x, target, self._step.penalty))
        plain = model.flat_gradients.copy()
        J_program = float(self.program.gradients(x, target))
        xp = model.xp
        norm = float(xp.linalg.norm(plain))
        error = float(xp.linalg.norm(model.flat_gradients - plain)) / (norm or 1.0)
        self._judge("a whole step", error, (J_program, J), norm)

    def _judge(self, what: str, error: float, losses: tuple[float, float], norm: float) -> None:
        """Go back to array code where the program differs from it; if forced, a DeviceError."""
        found, expected = losses
        limit = self._tolerance
        is_right = error <= limit and abs(found - expected) <= limit * abs(expected)
        if is_right or not isfinite(expected + norm):  # what diverges is not the program's fault
            return
        message = (
            f"gpu_engine: {what} differs from array code's by {error:.1e} of its norm (rounding "
            f"explains {limit:.0e}), loss {found:g} instead of {expected:g}"
        )
        if self._is_forced:
            raise DeviceError(f"{message}; use gpu_engine=portable")
        log.warning(f"warning: {message}; array code is used")
        self._is_refused = True


def record(executable: Executable) -> Recorded:
    """Have an executable recorded, and report what computes it."""
    ways = Counter(way.name for _, way, _ in executable.calls)
    named = ", ".join(f"{count} {name}" for name, count in ways.most_common())
    batch = len(executable.arrays["x"])
    log.info(f"step of {batch} images: {counted(sum(ways.values()), 'node')}: {named}")
    return Recorded(executable)
