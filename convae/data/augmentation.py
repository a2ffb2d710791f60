"""Augmentation: training images mirrored and shifted at random.

It is the target, too, that changes: the model learns to reconstruct the new image. What is drawn
depends only on the seed and the step, so a resumed or repeated run sees the same images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from convae.engine import Array, array_module
from convae.errors import UserTypeError, check_range


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images.

    Parameters
    ----------
    flip : bool
        Whether every second image, on average, is mirrored, left to right: along its last axis.
    shift : int
        Pixels by which an image is moved at most, along each axis; the edge's values fill the gap.
    seed : int
        Seed of all that is drawn.

    Raises
    ------
    UserTypeError, UserError
        If an argument is of another type, or the shift is negative.
    """

    flip: bool = False
    shift: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not isinstance(self.flip, bool):
            raise UserTypeError(f"augmentation.flip: {self.flip!r} is neither true nor false")
        check_range("augmentation.shift", self.shift, at_least=0, integer=True)

    def __bool__(self) -> bool:
        """Whether anything is changed."""
        return self.flip or self.shift > 0

    def __call__(self, images: Array, step: int) -> Array:
        """Change a batch.

        Parameters
        ----------
        images : (N, C, *size) ndarray
            Training images, on any device; not changed.
        step : int
            The step of training that they are for.

        Returns
        -------
        (N, C, *size) ndarray
            New images; the same array if there is nothing to do.
        """
        if not self:
            return images
        rng = np.random.default_rng([self.seed, 4, step])
        xp = array_module(images)
        N, _, *size = images.shape
        places = [xp.arange(length)[None] for length in size]
        if self.flip:
            mirrored = xp.asarray(rng.random((N, 1)) < 0.5)
            places[-1] = xp.where(mirrored, size[-1] - 1 - places[-1], places[-1])
        if self.shift:
            moves = rng.integers(-self.shift, self.shift, size=(len(size), N, 1), endpoint=True)
            places = [
                (place + move).clip(0, length - 1)
                for place, move, length in zip(places, xp.asarray(moves), size, strict=True)
            ]
        axes = len(size)
        n = xp.arange(N).reshape(N, *(1,) * axes)
        where = [
            place.reshape(len(place), *(1,) * axis, place.shape[1], *(1,) * (axes - 1 - axis))
            for axis, place in enumerate(places)
        ]
        changed = images[(n, slice(None), *where)]  # (N, *size, C)
        return xp.ascontiguousarray(xp.moveaxis(changed, -1, 1))


NONE = Augmentation()
"""No augmentation."""
