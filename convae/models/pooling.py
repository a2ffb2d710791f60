"""Max-pooling with switches: which position of a window was the largest, and the way back.

On the way up a window of positions becomes its largest value, and the *switch* says which it was.
On the way down a value goes back to where its switch points, and the others of its window are zero
(Zeiler et al. 2011; Masci et al. 2011). Gradients go the same ways.
"""

from __future__ import annotations

from dataclasses import dataclass

from convae.engine import Array, Backend
from convae.engine.geometry import Integers
from convae.errors import UserError


@dataclass(frozen=True)
class Pooling:
    """Windows of positions, side by side.

    Parameters
    ----------
    window : tuple of int
        Positions along each axis.
    backend : Backend
        What computes.
    """

    window: Integers
    backend: Backend

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
        return self.backend.pool(H, self.window)

    def take(self, H: Array, switches: Array) -> Array:
        """Take of each window what its switch points at: (N, O, *size) -> (N, O, *windows)."""
        return self.backend.take(H, switches, self.window)

    def up(self, P: Array, switches: Array) -> Array:
        """Put values where the switches point, and zeros elsewhere: the transpose of `take`."""
        return self.backend.unpool(P, switches, self.window)
