"""The order of an array's axes, spelt by a letter each: N, C, and L, H W or D H W for positions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from convae.errors import UserError

Values: TypeAlias = np.ndarray[Any, Any]

POSITIONS = ("L", "HW", "DHW")
"""Positions of signals, images and volumes."""

MEANING = "N examples, C channels, and positions L of signals, HW of images, DHW of volumes"


@dataclass(frozen=True)
class Layout:
    """The order of axes.

    Parameters
    ----------
    letters : str
        Such as "NCL" or "HWC": N, if there is one, is the first; without C there is one channel.

    Raises
    ------
    UserError
        If it is no such order.
    """

    letters: str

    def __post_init__(self) -> None:
        """Check the letters, which may come from a file."""
        if (
            not isinstance(self.letters, str)
            or not re.fullmatch(r"N?[CLHWD]+", self.letters)
            or self.letters.count("C") > 1
            or self._positions not in POSITIONS
        ):
            raise UserError(
                f"layout: {self.letters!r} is no order of axes; expected one such as NL, NCL, NLC, "
                f"NHW, NCHW, NHWC or NCDHW: {MEANING}"
            )

    @property
    def _positions(self) -> str:
        return self.letters.lstrip("N").replace("C", "")

    @property
    def positions(self) -> int:
        """Axes of positions."""
        return len(self._positions)

    @property
    def has_examples(self) -> bool:
        """Whether an array holds many examples, not one."""
        return self.letters.startswith("N")

    @property
    def axes(self) -> int:
        """Axes of an array."""
        return len(self.letters)

    def shape_of(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape (C, *size) of an example, from that of an array."""
        sizes = dict(zip(self.letters, shape, strict=True))
        return (sizes.get("C", 1), *(sizes[letter] for letter in self._positions))

    def examples(self, values: Values) -> Values:
        """Arrange an array of this layout: -> (N, C, *size), a view."""
        if not self.has_examples:
            values = values[None]
        rest = self.letters.lstrip("N")
        if "C" not in rest:
            return values[:, None]
        return np.moveaxis(values, 1 + rest.index("C"), 1)

    def back(self, examples: Values) -> Values:
        """Arrange examples (N, C, *size) as this layout has them, with N in front: a view."""
        rest = self.letters.lstrip("N")
        return np.moveaxis(examples, 1, 1 + rest.index("C")) if "C" in rest else examples[:, 0]


def possible(axes: int, with_examples: bool) -> list[str]:
    """List the layouts that arrays of so many axes may have; N is in front, or may be missing."""
    orders = [order for p in POSITIONS for order in (p, f"C{p}", f"{p}C")]
    known = [f"N{order}" for order in orders] + ([] if with_examples else orders)
    return [layout for layout in known if len(layout) == axes]
