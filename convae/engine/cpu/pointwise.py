"""Compiled elementwise passes that read and write memory once.

Arrays are contiguous: ``(P, C, N)``, positions, channels and examples, as viewed by `backend.rows`,
or flat. The derivative of an activation is quadratic in its output y: ``f' = p + q*y + r*y**2``,
times ``below`` where y is not positive.
"""

from __future__ import annotations

import numpy as np

from convae.engine.arrays import Array
from convae.engine.cpu.jit import compiled


@compiled
def add_bias(Z: Array, b: Array, slope: float) -> None:
    """Add a bias per channel, then multiply negative values by the slope, in place.

    Z (P, C, N); b (C,)
    """
    for position in range(Z.shape[0]):
        for channel in range(Z.shape[1]):
            row, shift = Z[position, channel], b[channel]
            for n in range(len(row)):
                z = row[n] + shift
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
def channel_sums(G: Array) -> Array:
    """Sum a gradient over positions and examples.

    G (P, C, N) -> (C,) of float64
    """
    sums = np.zeros(G.shape[1])
    for position in range(G.shape[0]):
        for channel in range(G.shape[1]):
            row = G[position, channel]
            total = row[0]
            for n in range(1, len(row)):
                total += row[n]
            sums[channel] += total
    return sums


@compiled
def squared_error(
    E: Array, R: Array, x: Array, scale: float, p: float, q: float, r: float, below: float
) -> float:
    """Return the sum of (R - x)**2; set E to scale * (R - x) times the activation's derivative.

    E (P, C, N); R, x (P, C, N)
    """
    J = 0.0
    is_constant = q == 0 and r == 0  # 0 * inf is not 0
    for position in range(R.shape[0]):
        for channel in range(R.shape[1]):
            new, output = E[position, channel], R[position, channel]
            target = x[position, channel]
            total = 0 * scale
            for n in range(len(new)):
                y = output[n]
                error = y - target[n]
                total += error * error
                slope = p if is_constant else p + q * y + r * y * y
                new[n] = scale * error * (slope if y > 0 else below * slope)
            J += total
    return J
