"""How optimizers change parameters: one step on flat vectors, in array code.

The `numbers` of a step, such as its size, are Python's or those of a small array on the device, so
that a recorded step can be given others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from convae.engine.arrays import Array
from convae.engine.backend import Backend


@dataclass(frozen=True)
class Momentum:
    """``v = momentum * v + g``, ``w -= rate * v``; see `convae.SGD`. Numbers: the rate."""

    momentum: float
    nesterov: bool
    penalty: float  # an L2 penalty: added to the gradient as penalty * w

    def __call__(
        self,
        backend: Backend,
        parameters: Array,
        gradients: Array,
        numbers: Sequence[Any],
        velocity: Array,
    ) -> None:
        """Do one step; the gradients are overwritten with scratch."""
        if self.penalty:
            gradients += self.penalty * parameters
        velocity *= self.momentum
        velocity += gradients
        if self.nesterov:
            gradients += self.momentum * velocity
        parameters -= numbers[0] * (gradients if self.nesterov else velocity)


@dataclass(frozen=True)
class Moments:
    """Adam and AdamW (see `convae.Adam`).

    Numbers: the rate over ``1 - beta1^t``, ``(1 - beta2^t)^(-1/2)``, and ``1 - rate * decay`` of
    AdamW's decay.
    """

    beta1: float
    beta2: float
    epsilon: float
    penalty: float
    decays: bool

    def __call__(
        self,
        backend: Backend,
        parameters: Array,
        gradients: Array,
        numbers: Sequence[Any],
        first_moment: Array,
        second_moment: Array,
    ) -> None:
        """Do one step; the gradients are overwritten with scratch."""
        xp = backend.xp
        if self.decays:
            parameters *= numbers[2]
        if self.penalty:
            gradients += self.penalty * parameters
        first_moment *= self.beta1
        first_moment += (1 - self.beta1) * gradients
        xp.square(gradients, out=gradients)
        second_moment *= self.beta2
        second_moment += (1 - self.beta2) * gradients
        # gradients now serve as scratch: step = first / (sqrt(second) * correction + epsilon)
        step = gradients
        xp.sqrt(second_moment, out=step)
        step *= numbers[1]
        step += self.epsilon
        xp.divide(first_moment, step, out=step)
        parameters -= numbers[0] * step
