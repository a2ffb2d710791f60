"""Images as grids of patches."""

from __future__ import annotations

from math import prod
from typing import Any, TypeAlias

import numpy as np

Floats: TypeAlias = np.ndarray[Any, Any]


class Patches:
    """Images divided into a grid of patches, which differ in size by a pixel where they have to.

    Smaller patches are filled up by repeating their last pixels.

    Parameters
    ----------
    shape : (C, *size)
        Shape of an image.
    grid : tuple of int, optional
        Patches along each axis; by default one.
    """

    def __init__(self, shape: tuple[int, ...], grid: tuple[int, ...] | None = None) -> None:
        channels, *sides = shape
        self.shape, self.grid = shape, grid or (1,) * len(sides)
        self._taken = []
        for side, number in zip(sides, self.grid, strict=True):
            edges = np.arange(number + 1) * side // number
            start = np.minimum(edges[:-1], side - 1)[:, None]
            sizes = np.maximum(np.diff(edges), 1)[:, None]
            self._taken.append(start + np.minimum(np.arange(sizes.max()), sizes - 1))
        # where each row and column of an image is found first
        self._found = [np.unique(taken, return_index=True)[1] for taken in self._taken]
        self.length = channels * prod(taken.shape[1] for taken in self._taken)

    @property
    def number(self) -> int:
        """Patches of an image, P."""
        return prod(self.grid)

    def cut(self, images: Floats) -> Floats:
        """Images (N, C, *size) -> patches (N, P, L)."""
        for axis, taken in enumerate(self._taken, start=2):
            images = images.take(taken.ravel(), axis)
        sides = [length for taken in self._taken for length in taken.shape]
        axes = range(2, 2 + len(sides), 2)
        order = (0, *axes, 1, *(axis + 1 for axis in axes))
        taken = images.reshape(*images.shape[:2], *sides)  # (N, C, grid, side, grid, side, ...)
        return taken.transpose(order).reshape(len(images), self.number, self.length)

    def join(self, patches: Floats) -> Floats:
        """Patches (N, P, L) -> images (N, C, *size)."""
        axes, sides = len(self.grid), [taken.shape[1] for taken in self._taken]
        laid = patches.reshape(len(patches), *self.grid, self.shape[0], *sides)
        pairs = [axis for n in range(axes) for axis in (1 + n, 2 + axes + n)]
        laid = laid.transpose(0, 1 + axes, *pairs)
        laid = laid.reshape(len(patches), self.shape[0], *(taken.size for taken in self._taken))
        for axis, found in enumerate(self._found, start=2):
            laid = laid.take(found, axis)
        return laid
