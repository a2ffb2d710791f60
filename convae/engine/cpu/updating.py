"""The compiled update of parameters."""

from __future__ import annotations

import numpy as np

from convae.engine.arrays import Array
from convae.engine.cpu.jit import compiled


@compiled
def follow_moments(
    parameters: Array, gradients: Array, first: Array, second: Array, begin: int, end: int,
    penalty: float, beta1: float, beta2: float, epsilon: float, rate: float, correction: float,
    decay: float,
) -> None:  # fmt: skip
    """Do one step of Adam in place, on [begin, end); see `convae.engine.updates.Moments`."""
    one = parameters.dtype.type(1)
    for i in range(begin, end):
        gradient = gradients[i] + penalty * parameters[i]
        m = beta1 * first[i] + (one - beta1) * gradient
        v = beta2 * second[i] + (one - beta2) * gradient * gradient
        first[i], second[i] = m, v
        parameters[i] = decay * parameters[i] - rate * m / (np.sqrt(v) * correction + epsilon)
