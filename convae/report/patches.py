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
    shape : (C, H, W)
        Shape of an image.
    grid : tuple of int
        Patches along both axes.
    """

    def __init__(self, shape: tuple[int, ...], grid: tuple[int, ...] = (1, 1)) -> None:
        channels, *sides = shape
        self.shape, self.grid = shape, grid
        self._taken = []
        for side, number in zip(sides, grid, strict=True):
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
        """Images (N, C, H, W) -> patches (N, P, L)."""
        rows, columns = self._taken
        taken = images[:, :, rows][..., columns]  # (N, C, grid, side, grid, side)
        return taken.transpose(0, 2, 4, 1, 3, 5).reshape(len(images), self.number, self.length)

    def join(self, patches: Floats) -> Floats:
        """Patches (N, P, L) -> images (N, C, H, W)."""
        rows, columns = self._taken
        sides = rows.shape[1], columns.shape[1]
        laid = patches.reshape(-1, *self.grid, self.shape[0], *sides).transpose(0, 3, 1, 4, 2, 5)
        laid = laid.reshape(len(patches), self.shape[0], rows.size, columns.size)
        return laid[:, :, self._found[0]][..., self._found[1]]
