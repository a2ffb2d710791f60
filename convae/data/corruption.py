"""Noise on the input of a denoising autoencoder (Vincent et al. 2010).

The model is given the corrupted image and compared with the clean one. The noise depends only on
the seed and on where in the run it is used, so a resumed or repeated run sees the same, and it is
drawn on the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from math import prod
from typing import TypeAlias

from convae.data.noise import Noise
from convae.engine import Array, array_module
from convae.engine.backend import channels_second
from convae.errors import UserError, check_choice, check_range, prefixed
from convae.processes import Share


class Use(IntEnum):
    """The purpose of corrupted images; each has noise of its own."""

    TRAINING = 0
    VALIDATION = 1
    TEST = 2
    FIXED = 3


def _gaussian(x: Array, amount: float, draw: Callable[[str], Array]) -> Array:
    """Add normal noise of the given standard deviation, and clip to [0, 1]."""
    xp = array_module(x)
    noisy = draw("normal")
    noisy *= amount
    noisy += x
    return xp.clip(noisy, 0, 1, out=noisy)


def _masking(x: Array, amount: float, draw: Callable[[str], Array]) -> Array:
    """Set the given fraction of all values to 0."""
    xp = array_module(x)
    return xp.multiply(x, draw("uniform") >= amount, out=xp.empty_like(x))  # in x's memory order


def _salt_and_pepper(x: Array, amount: float, draw: Callable[[str], Array]) -> Array:
    """Set the given fraction of all values to 0 or 1, with equal chance."""
    xp = array_module(x)
    chance = draw("uniform")
    noisy = xp.empty_like(x)  # in x's memory order
    noisy[...] = xp.where(chance < amount, (chance < amount / 2).astype(x.dtype), x)
    return noisy


Function: TypeAlias = Callable[[Array, float, Callable[[str], Array]], Array]
CORRUPTIONS: dict[str, tuple[Function | None, float]] = {
    # name: (function, largest amount)
    "none": (None, 0),
    "gaussian": (_gaussian, 10),
    "masking": (_masking, 1),
    "salt_and_pepper": (_salt_and_pepper, 1),
}


@dataclass(frozen=True)
class Corruption:
    """A kind of noise.

    Parameters
    ----------
    name : {"none", "gaussian", "masking", "salt_and_pepper"}
        Which kind.
    amount : float
        The standard deviation of gaussian noise, or the fraction of values that the others replace.
        Images range over [0, 1].
    seed : int
        Seed of all the noise.

    Raises
    ------
    UserError
        If the name is unknown or the amount out of range.
    """

    name: str = "none"
    amount: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check name and amount."""
        check_choice("corruption.name", self.name, CORRUPTIONS)
        if self.name == "none" and self.amount != 0:
            kinds = ", ".join(name for name in CORRUPTIONS if name != "none")
            raise UserError(
                f"corruption.amount: {self.amount!r}, but there is no noise; choose a corruption "
                f"among {kinds}"
            )
        with prefixed("corruption."):
            check_range(
                f"amount of {self.name!r}",
                self.amount,
                at_least=0,
                at_most=CORRUPTIONS[self.name][1],
            )

    def __bool__(self) -> bool:
        """Whether anything is changed."""
        return self.name != "none" and self.amount > 0

    def __call__(self, x: Array, use: Use, index: int, share: Share | None = None) -> Array:
        """Corrupt a batch.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            Clean images in [0, 1]; not changed.
        use : Use
            The purpose.
        index : int
            Which batch of that purpose: the step of training, or the batch's position.
        share : Share, optional
            Which part of that batch x is; by default all of it.

        Returns
        -------
        (N, C, *size) ndarray
            Corrupted images in [0, 1]; x itself if there is nothing to do.
        """
        function, _ = CORRUPTIONS[self.name]
        if function is None or not self:
            return x
        noise = Noise(array_module(x), [self.seed, 3, use, index])
        N, C, *size = x.shape
        share = Share(0, N, N) if share is None else share
        elements = C * prod(size)

        def draw(distribution: str) -> Array:
            how = (N, *size, C), x.dtype.name, share.rows.start * elements  # as batches lie
            if distribution == "normal":
                return channels_second(noise.normal(*how, share.whole * elements))
            return channels_second(noise.uniform(*how))

        return function(x, self.amount, draw)


CLEAN = Corruption()
"""No noise."""
