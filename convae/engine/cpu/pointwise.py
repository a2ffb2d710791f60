"""Compiled elementwise passes that read and write memory once.

Arrays are flat, channels last. What belongs to channels is repeated to a `pattern`, so that inner
loops are long for few channels, too. The derivative of an activation is quadratic in its output y:
``f' = p + q*y + r*y**2``, times ``below`` where y is not positive.
"""

from __future__ import annotations

import numpy as np

from convae.engine.arrays import Array
from convae.engine.cpu.jit import compiled

PATTERN = 512
"""Elements of a pattern, at least."""

LONGEST_SUM = 256
"""Patterns that are added before they are added to sums in float64."""


@compiled
def add_bias(Z: Array, pattern: Array, slope: float) -> None:
    """Add a pattern again and again, then multiply negative values by the slope, in place."""
    for start in range(0, len(Z), len(pattern)):
        row = Z[start : start + len(pattern)]
        for n in range(len(row)):
            z = row[n] + pattern[n]
            if z < 0:
                z = slope * z if slope != 0 else slope  # 0 * -inf would be NaN
            row[n] = z


@compiled
def times_derivative(dH: Array, H: Array, p: float, q: float, r: float, below: float) -> None:
    """Multiply a gradient by the derivative of the activation, in place.

    dH (M,); H (M,)
    """
    is_constant = q == 0 and r == 0  # 0 * inf is not 0
    for i in range(len(H)):
        y = H[i]
        slope = p if is_constant else p + q * y + r * y * y
        dH[i] *= slope if y > 0 else below * slope


@compiled
def channel_sums(G: Array, channels: int) -> Array:
    """Sum a gradient over positions and examples.

    G (P, channels), flat -> (channels,) of float64
    """
    length = -(-PATTERN // channels) * channels
    sums = np.zeros(length)
    part = np.zeros(length, G.dtype)
    for begin in range(0, len(G), length * LONGEST_SUM):
        part[:] = 0
        for start in range(begin, min(begin + length * LONGEST_SUM, len(G)), length):
            row = G[start : start + length]
            for n in range(len(row)):
                part[n] += row[n]
        for n in range(length):
            sums[n] += part[n]
    return sums.reshape(-1, channels).sum(0)


@compiled
def squared_error(
    E: Array, R: Array, x: Array, scale: float, p: float, q: float, r: float, below: float
) -> float:
    """Return the sum of (R - x)**2; set E to scale * (R - x) times the activation's derivative.

    E (M,); R, x (M,)
    """
    J = 0.0
    is_constant = q == 0 and r == 0  # 0 * inf is not 0
    for start in range(0, len(R), 4096):
        total = 0 * scale
        for n in range(start, min(start + 4096, len(R))):
            y = R[n]
            error = y - x[n]
            total += error * error
            slope = p if is_constant else p + q * y + r * y * y
            E[n] = scale * error * (slope if y > 0 else below * slope)
        J += total
    return J


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
