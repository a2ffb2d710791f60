"""What the channels of a code say together: numbers that pairs of rectified filters stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from convae.models.activations import Activation
from convae.models.frames import Floats


@dataclass(frozen=True)
class Signal:
    """The numbers that channels stand for: channels themselves, or differences of pairs of them.

    Parameters
    ----------
    plus, minus : (P,) ndarray of int
        For each number the channel to be added, and the one to be subtracted, or -1 for none.
    gain : float
        The number's size, over that of the activation's argument.
    """

    plus: np.ndarray[Any, Any]
    minus: np.ndarray[Any, Any]
    gain: float

    @classmethod
    def of_code(cls, filters: int, groups: int, available: int, f: Activation) -> Signal:
        """Lay out the code of a layer; `available` is the length of the patch that it encodes.

        Pairs lie side by side, so that the next layer's groups do not part them.
        """
        gain, is_paired = _pairing(f)
        each = filters // groups
        if not is_paired:
            plus = np.arange(filters)
            return cls(plus, np.full_like(plus, -1), gain)
        directions = each // 2 if each // 2 >= available else -(-each // 2)
        first = np.arange(groups)[:, None] * each
        plus = (first + 2 * np.arange(directions)).ravel()
        minus = plus + 1
        minus[(plus % each) + 1 >= each] = -1  # an odd filter: half of a pair
        return cls(plus, minus, gain)

    @classmethod
    def raw(cls, channels: int, gain: float = 1.0) -> Signal:
        """Take the channels as they are."""
        plus = np.arange(channels)
        return cls(plus, np.full_like(plus, -1), gain)

    def read(self, H: Any) -> Any:
        """Compute the numbers: H (N, C, *size) -> (N, P, *size)."""
        paired = self.minus >= 0
        S = H[:, self.plus]
        S[:, paired] -= H[:, self.minus[paired]]
        return S

    def spread(self, S: Floats, channels: int, axis: int = 0) -> Floats:
        """Transpose `read`, on any axis: P numbers -> so many channels."""
        moved = np.moveaxis(S, axis, 0)
        spread = np.zeros((channels, *moved.shape[1:]))
        paired = self.minus >= 0
        spread[self.plus] = moved
        spread[self.minus[paired]] = -moved[paired]
        return np.moveaxis(spread, 0, axis)


def _pairing(f: Activation) -> tuple[float, bool]:
    """Measure ``(f(z) - f(-z)) / z`` where it is constant, as it is for rectifiers; else f'(0)."""
    z = np.linspace(0.1, 8, 80)
    up, down, near = z.copy(), -z, np.array([-1e-4, 1e-4])
    for values in (up, down, near):
        f.function(np, values)
    ratio = (up - down) / z
    is_linear = np.allclose(up, z) and np.allclose(down, -z)
    if not is_linear and np.ptp(ratio) < 1e-9 and ratio[0] > 0:
        return float(ratio[0]), True
    slope = float(near[1] - near[0]) / 2e-4
    return slope if slope > 0 else 1.0, False
