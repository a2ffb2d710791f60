"""Augmentation: training images mirrored, shifted and cut out at random.

It is the target, too, that changes: the model learns to reconstruct the new image. What is drawn
depends only on the seed and the step, so a resumed or repeated run sees the same images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from convae.data.pictures import Pixels, Preprocessing, middle
from convae.data.splits import Files, Labels, Order, Split, Splits, digest
from convae.engine import Array, array_module
from convae.errors import UserError, UserTypeError, check_range
from convae.processes import Share


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
    crop : tuple of int, optional
        Size of the window that is cut out of each image.

    Raises
    ------
    UserTypeError, UserError
        If an argument is of another type, or the shift is negative.
    """

    flip: bool = False
    shift: int = 0
    seed: int = 0
    crop: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not isinstance(self.flip, bool):
            raise UserTypeError(f"augmentation.flip: {self.flip!r} is neither true nor false")
        check_range("augmentation.shift", self.shift, at_least=0, integer=True)
        for side in self.crop or ():
            check_range("augmentation.crop", side, at_least=1, integer=True)

    def __bool__(self) -> bool:
        """Whether anything is changed."""
        return self.flip or self.shift > 0 or self.crop is not None

    def __call__(self, images: Array, step: int, share: Share | None = None) -> Array:
        """Change a batch.

        Parameters
        ----------
        images : (N, C, *size) ndarray
            Training images, on any device; not changed.
        step : int
            The step of training that they are for.
        share : Share, optional
            Which part of that step's images they are; by default all of them.

        Returns
        -------
        (N, C, *size) ndarray
            New images, of the window's size if there is one; the same array if there is nothing to
            do.

        Raises
        ------
        UserError
            If the window is larger than the images.
        """
        if not self:
            return images
        rng = np.random.default_rng([self.seed, 4, step])
        xp = array_module(images)
        N, _, *size = images.shape
        share = Share(0, N, N) if share is None else share
        rows, whole = share.rows, share.whole
        window = check_crop(self.crop, tuple(size)) or tuple(size)
        places = [xp.arange(length)[None] for length in window]
        if self.flip:
            mirrored = xp.asarray(rng.random((whole, 1))[rows] < 0.5)
            places[-1] = xp.where(mirrored, window[-1] - 1 - places[-1], places[-1])
        if self.crop is not None:
            free = [length - side for length, side in zip(size, window, strict=True)]
            starts = (rng.integers(0, room, (whole, 1), endpoint=True)[rows] for room in free)
            places = [p + xp.asarray(start) for p, start in zip(places, starts, strict=True)]
        if self.shift:
            limits, drawn = (-self.shift, self.shift), (len(size), whole, 1)
            moves = rng.integers(*limits, size=drawn, endpoint=True)[:, rows]
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


def check_crop(crop: tuple[int, ...] | None, size: tuple[int, ...]) -> tuple[int, ...] | None:
    """Refuse a window that images do not contain."""
    fits = crop is None or len(crop) == len(size)
    if not fits or any(a > b for a, b in zip(crop or size, size, strict=True)):
        raise UserError(
            f"augmentation.crop: {crop} is no window of images of {'x'.join(map(str, size))}; make "
            "them larger, with dataset.image_size, or the window smaller"
        )
    return crop


@dataclass(frozen=True)
class Cropped:
    """A split of which only the middle of each image is used; training takes windows at random.

    Parameters
    ----------
    whole : Split
        The images.
    crop : tuple of int
        Size of the middle.
    """

    whole: Split
    crop: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Split`."""
        return (self.whole.shape[0], *self.crop)

    @property
    def labels(self) -> Labels | None:
        """See `Split`."""
        return self.whole.labels

    @property
    def files(self) -> Files | None:
        """See `Split`."""
        return self.whole.files

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.whole)

    def select(self, indices: np.ndarray[Any, Any]) -> Cropped:
        """See `Split`."""
        return Cropped(self.whole.select(indices), self.crop)

    def fingerprint(self) -> str:
        """See `Split`."""
        return digest(self.whole.fingerprint(), str(self.crop))

    def batches(self, size: int, order: Order | None = None, skip: int = 0) -> Iterator[Pixels]:
        """See `Split`."""
        for pixels in self.whole.batches(size, order, skip):
            yield middle(pixels, self.crop)


def cropped(data: Splits, crop: tuple[int, ...] | None) -> Splits:
    """Take the middle of all images; a `UserError` says why that cannot be."""
    if crop is None:
        return data
    if not isinstance(data.how, Preprocessing) or data.how.tile is not None:
        raise UserError(
            "augmentation.crop: is for whole pictures; of tiles, raise dataset.overlap instead"
        )
    check_crop(crop, data.train.shape[1:])
    return replace(
        data,
        train=Cropped(data.train, crop),
        validation=Cropped(data.validation, crop),
        test=Cropped(data.test, crop),
        how=replace(data.how, crop=crop),
    )


NONE = Augmentation()
"""No augmentation."""
