"""Random numbers by counting: the same on every device, and drawn where they are used.

Number n of a stream is a function of the stream's key and of n alone, SplitMix64 (Steele, Lea and
Flood 2014), so that a GPU computes all of them at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod, tau
from types import ModuleType

import numpy as np

from convae.engine import Array

GAMMA = np.uint64(0x9E3779B97F4A7C15)
"""By how much the state grows from number to number: the golden ratio, odd."""

FACTORS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31)


class Noise:
    """A stream of random numbers.

    Parameters
    ----------
    xp : module
        ``numpy`` or ``cupy``: where the numbers are drawn.
    entropy : sequence of int
        What the stream depends on; others give independent numbers.
    """

    def __init__(self, xp: ModuleType, entropy: Sequence[int]) -> None:
        self._xp = xp
        (self._state,) = np.random.SeedSequence(list(entropy)).generate_state(1, np.uint64)

    def bits(self, count: int, first: int = 0) -> Array:
        """Draw numbers of the stream, (count,) of uint64, from a place on."""
        steps = self._xp.arange(first + 1, first + count + 1, dtype=np.uint64)
        steps *= GAMMA
        steps += self._state
        for shift, factor in zip(SHIFTS, FACTORS, strict=False):
            steps ^= steps >> shift
            steps *= factor
        steps ^= steps >> SHIFTS[2]
        return steps

    def uniform(self, shape: Sequence[int], dtype: str = "float32", first: int = 0) -> Array:
        """Draw numbers in [0, 1).

        Parameters
        ----------
        shape : sequence of int
            How many.
        dtype : {"float32", "float64"}
            Their type; they have as many random bits as its fraction.
        first : int
            The place in the stream of the first.

        Returns
        -------
        ndarray
            Numbers of this shape.
        """
        digits = np.finfo(dtype).nmant + 1
        kept = self.bits(prod(shape), first) >> np.uint64(64 - digits)
        return (kept.astype(dtype) * np.dtype(dtype).type(2.0**-digits)).reshape(shape)

    def normal(
        self, shape: Sequence[int], dtype: str = "float32", first: int = 0, whole: int | None = None
    ) -> Array:
        """Draw numbers of mean 0 and standard deviation 1 (Box and Muller 1958).

        Parameters
        ----------
        shape : sequence of int
            How many.
        dtype : {"float32", "float64"}
            Their type.
        first, whole : int
            They are those from `first` on of a draw of `whole`; by default all of it.

        Returns
        -------
        ndarray
            Numbers of this shape.
        """
        xp, count = self._xp, prod(shape)
        half = -(-(count if whole is None else whole) // 2)
        # pairs of uniform numbers: by the cosine the first half of the draw, by the sine the other
        ends = first, first + count
        lower = [min(end, half) for end in ends]
        upper = [max(end, half) - half for end in ends]
        used = [pair for pair in (lower, upper) if pair[0] < pair[1]] or [[0, 0]]
        start, stop = min(pair[0] for pair in used), max(pair[1] for pair in used)
        u, v = (self.uniform((stop - start,), dtype, place + start) for place in (0, half))
        radius = xp.sqrt(-2 * xp.log1p(-u))  # 1 - u is in (0, 1]
        angle = np.dtype(dtype).type(tau) * v
        (a, b), (c, d) = ((max(p - start, 0) for p in pair) for pair in (lower, upper))
        parts = (radius[a:b] * xp.cos(angle[a:b]), radius[c:d] * xp.sin(angle[c:d]))
        return xp.concatenate(parts).reshape(shape)
