"""Compiled max-pooling, see `convae.engine.backend.Backend`.

Examples are rows of arrays, channels last in memory. A window begins at its entry of `starts`, and
its positions lie as far from there as `within` says.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from convae.engine.arrays import Array
from convae.engine.cpu.jit import compiled
from convae.engine.geometry import Integers


@lru_cache(maxsize=64)
def offsets(size: Integers, window: Integers, C: int) -> tuple[Array, Array]:
    """Return where the windows of an example (*size, C) begin, and their positions from there."""
    starts, within = np.zeros(1, np.int64), np.zeros(1, np.int64)
    step = C * int(np.prod(size))
    for n, w in zip(size, window, strict=True):
        step //= n
        starts = (starts[:, None] + np.arange(0, n, w) * step).reshape(-1)
        within = (within[:, None] + np.arange(w) * step).reshape(-1)
    return starts, within


@compiled
def largest(
    H: Array, P: Array, switches: Array, starts: Array, within: Array, channels: int
) -> None:
    """Write the largest of each window of H to P, and which it is."""
    for e in range(len(H)):
        for j in range(len(starts)):
            for number in range(len(within)):
                h, p = starts[j] + within[number], j * channels
                for c in range(channels):
                    new, old = H[e, h + c], P[e, p + c]
                    is_larger = number == 0 or new > old or (new != new and old == old)
                    P[e, p + c] = new if is_larger else old
                    switches[e, p + c] = number if is_larger else switches[e, p + c]


@compiled
def follow(
    H: Array, P: Array, switches: Array, starts: Array, within: Array, channels: int, is_back: bool
) -> None:
    """Write what the switches point at, of each window of H, to P; or P there, zeros elsewhere."""
    zero = P.dtype.type(0)
    for e in range(len(H)):
        for j in range(len(starts)):
            for number in range(len(within)):
                h, p = starts[j] + within[number], j * channels
                for c in range(channels):
                    is_it = switches[e, p + c] == number
                    if is_back:
                        H[e, h + c] = P[e, p + c] if is_it else zero
                    else:
                        P[e, p + c] = H[e, h + c] if is_it or number == 0 else P[e, p + c]
