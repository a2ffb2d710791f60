"""Winner-take-all (Makhzani and Frey 2015): which numbers of a code make a reconstruction."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import numpy as np

from convae.engine import Array, array_module, to_numpy
from convae.engine.backend import channels_last, channels_second
from convae.errors import UserTypeError, check_range


@dataclass(frozen=True)
class Winners:
    """The numbers of a code that are kept; all others count as zero, and get no gradient.

    It is false where all are kept.

    Parameters
    ----------
    spatial : bool
        Whether each filter keeps one position of each example, its largest.
    lifetime : float, optional
        The part of a batch's numbers that each filter keeps, the largest; with `spatial`, of those
        that are left. At least one of a batch is kept.

    Raises
    ------
    UserTypeError, UserError
        If spatial is no bool, or lifetime is not over 0 and at most 1.
    """

    spatial: bool = False
    lifetime: float | None = None

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not isinstance(self.spatial, bool):
            raise UserTypeError(f"spatial: {self.spatial!r} is neither True nor False")
        if self.lifetime is not None:
            check_range("lifetime", self.lifetime, over=0, at_most=1)

    def __bool__(self) -> bool:
        """Tell whether anything is left out."""
        return self.spatial or self.lifetime is not None

    def __call__(self, H: Array) -> Array:
        """Keep the winners of a whole batch, H (N, O, *output)."""
        threshold = None if self.lifetime is None else self.threshold([self.strengths(H)])
        kept = self.mask(H, threshold)
        return H if kept is None else H * kept

    def strengths(self, H: Array) -> Array:
        """Return what competes over a batch: H (N, O, *output) -> (O, candidates)."""
        values = _by_positions(H)
        if self.spatial:
            values = values.max(axis=1, keepdims=True)
        return values.reshape(-1, H.shape[1]).T

    def threshold(self, strengths: list[Array]) -> Array:
        """Find the smallest value that each filter keeps: chunks of `strengths` -> (O,).

        It is searched for on the host: candidates are few.
        """
        assert self.lifetime is not None
        values = np.concatenate([to_numpy(part) for part in strengths], axis=1)
        count = values.shape[1]
        place = count - min(count, ceil(self.lifetime * count))
        least = np.partition(values, place, axis=1)[:, place]
        return array_module(strengths[0]).asarray(least)

    def mask(self, H: Array, threshold: Array | None) -> Any:
        """Mark what is kept of codes H (N, O, *output), as 0 and 1; None where all is."""
        if not self:
            return None
        xp, values = array_module(H), _by_positions(H)
        N, _, O = values.shape
        if self.spatial:
            kept = xp.zeros(values.shape, H.dtype)
            kept[xp.arange(N)[:, None], values.argmax(axis=1), xp.arange(O)] = 1
        else:
            kept = xp.ones(values.shape, H.dtype)
        if threshold is not None:
            kept *= threshold <= values
        return channels_second(kept.reshape(channels_last(H).shape))


def _by_positions(H: Array) -> Array:
    """View codes (N, O, *output) as (N, positions, O), which is how they lie in memory."""
    return channels_last(H).reshape(len(H), prod(H.shape[2:]), H.shape[1])
