"""The few test images that a run shows again and again."""

from __future__ import annotations

from convae.data.corruption import Corruption, Use
from convae.data.pictures import to_floats
from convae.data.splits import Split
from convae.engine import Array
from convae.models.model import Model


class FixedImages:
    """The first test images, and what the model is given in their place.

    Parameters
    ----------
    test : Split
        Where they are taken from.
    count : int
        How many.
    corruption : Corruption
        Noise on the model's input, the same every time.
    """

    def __init__(self, test: Split, count: int, corruption: Corruption) -> None:
        self._pixels = next(test.batches(count))
        self._corruption = corruption

    def images(self, model: Model) -> tuple[Array, Array | None]:
        """Return the images (N, C, H, W), and the corrupted ones where there is noise."""
        x = to_floats(self._pixels, model.backend, model.dtype)
        return x, self._corruption(x, Use.FIXED, 0) if self._corruption else None
