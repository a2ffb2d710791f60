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
        Whether every second image, on average, is mirrored, left to right.
    shift : int
        Pixels by which an image is moved at most, along both axes; the edge's values fill the gap.
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
        images : (N, C, H, W) ndarray
            Training images, on any device; not changed.
        step : int
            The step of training that they are for.

        Returns
        -------
        (N, C, H, W) ndarray
            New images; the same array if there is nothing to do.
        """
        if not self:
            return images
        rng = np.random.default_rng([self.seed, 4, step])
        xp = array_module(images)
        N, _, H, W = images.shape
        rows, columns = (xp.arange(size)[None] for size in (H, W))
        if self.flip:
            mirrored = xp.asarray(rng.random((N, 1)) < 0.5)
            columns = xp.where(mirrored, W - 1 - columns, columns)
        if self.shift:
            moves = xp.asarray(rng.integers(-self.shift, self.shift, size=(2, N, 1), endpoint=True))
            rows = (rows + moves[0]).clip(0, H - 1)
            columns = (columns + moves[1]).clip(0, W - 1)
        n = xp.arange(N)[:, None, None]
        changed = images[n, :, rows[:, :, None], columns[:, None, :]]  # (N, H, W, C)
        return xp.ascontiguousarray(changed.transpose(0, 3, 1, 2))


NONE = Augmentation()
"""No augmentation."""
