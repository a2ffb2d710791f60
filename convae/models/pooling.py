"""Max-pooling with switches: which position of a window was the largest, and the way back.

On the way up a window of positions becomes its largest value, and the *switch* says which it was.
On the way down a value goes back to where its switch points, and the others of its window are zero
(Zeiler et al. 2011; Masci et al. 2011). Gradients go the same ways.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from convae.engine import Array, array_module
from convae.engine.geometry import Integers
from convae.errors import UserError


@dataclass(frozen=True)
class Pooling:
    """Windows of positions, side by side.

    Parameters
    ----------
    window : tuple of int
        Positions along each axis.
    """

    window: Integers

    def output(self, size: Integers) -> Integers:
        """Count the windows along each axis; a `UserError` says that they do not fit."""
        if any(n % w for n, w in zip(size, self.window, strict=True)):
            raise UserError(
                f"pool: {self.window} does not divide the {'x'.join(map(str, size))} positions of "
                "the layer's output; choose a divisor, or another padding or stride"
            )
        return tuple(n // w for n, w in zip(size, self.window, strict=True))

    def down(self, H: Array) -> tuple[Array, Array]:
        """Take the largest of each window: (N, O, *size) -> values, switches (N, O, *windows)."""
        windows = self._windows(H)
        switches = windows.argmax(axis=-1)
        return self._chosen(windows, switches), switches

    def take(self, H: Array, switches: Array) -> Array:
        """Take of each window what its switch points at: (N, O, *size) -> (N, O, *windows)."""
        return self._chosen(self._windows(H), switches)

    def up(self, P: Array, switches: Array) -> Array:
        """Put values where the switches point, and zeros elsewhere: the transpose of `take`."""
        xp, axes = array_module(P), len(self.window)
        windows = P[..., None] * (xp.arange(prod(self.window)) == switches[..., None])
        N, O, *counts = P.shape
        split = windows.reshape(N, O, *counts, *self.window).astype(P.dtype, copy=False)
        order = [0, 1]
        for axis in range(axes):
            order += [2 + axis, 2 + axes + axis]
        size = (n * w for n, w in zip(counts, self.window, strict=True))
        return split.transpose(order).reshape(N, O, *size)

    def _windows(self, H: Array) -> Array:
        """Gather windows: (N, O, *size) -> (N, O, *windows, positions of one)."""
        N, O, *size = H.shape
        pairs: list[int] = []
        for n, w in zip(size, self.window, strict=True):
            pairs += [n // w, w]
        axes = len(self.window)
        order = [0, 1, *range(2, 2 + 2 * axes, 2), *range(3, 3 + 2 * axes, 2)]
        split = H.reshape(N, O, *pairs).transpose(order)
        return split.reshape(*split.shape[: 2 + axes], prod(self.window))

    @staticmethod
    def _chosen(windows: Array, switches: Array) -> Any:
        xp = array_module(windows)
        return xp.take_along_axis(windows, switches[..., None], axis=-1)[..., 0]
