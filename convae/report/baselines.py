"""What a model is compared with: the mean image, and linear maps that keep as many numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from math import prod
from typing import Any, TypeAlias

import numpy as np

from convae.data.corruption import CLEAN, Corruption, Use
from convae.data.pictures import to_floats
from convae.data.splits import Split, kind, sample, unit
from convae.engine import backend_for
from convae.errors import counted
from convae.models.model import Model
from convae.report.linear_maps import (
    Coordinates,
    LowRank,
    Moments,
    leading,
    reduced_rank,
    snapshot_basis,
)
from convae.report.patches import Patches
from convae.report.quality import Quality, squared_errors

Floats: TypeAlias = np.ndarray[Any, Any]

LARGEST = 4096
"""Values of an image, or of a patch, whose covariance is computed; and rows whose products are."""

SAMPLE_BYTES = 400_000_000
"""Memory, at most, for the images from which the directions of larger ones are computed."""

BASIS_BYTES = 640_000_000
"""Memory, at most, for those directions."""

WORK = 2e12
"""Operations, at most, that project images on those directions."""

BATCH_VALUES = 2**24
"""Values of the images, at most, that pass through at a time: 64 MiB as floats."""

IMAGES_PER_VALUE = 10
"""Training images for each number that a regression sees: with fewer it overfits."""

PAIRS_PER_VALUE = 20
"""Pairs of an image and a noisy one for each number: images come again with other noise."""


@dataclass(frozen=True)
class Baselines:
    """Baselines for a model, fitted on training images.

    Parameters
    ----------
    mean_image : (C, *size) ndarray
        The mean training image, in [0, 1].
    maps : dict
        For ``pca``, and where they apply ``patch_pca`` and ``linear``, patches and the map; None
        for a map that loses nothing.
    corruption : Corruption
        The noise from which a model reconstructs images.
    notes : tuple of str
        What was fitted on fewer images than there are.
    """

    mean_image: Floats
    maps: dict[str, tuple[Patches, LowRank | None]]
    corruption: Corruption = CLEAN
    notes: tuple[str, ...] = ()

    @classmethod
    def fit(cls, model: Model, train: Split, corruption: Corruption = CLEAN) -> Baselines:
        """Fit the baselines that are fair to a model, which need not be trained.

        ``pca`` has as many components as the code has numbers. Where the code has positions,
        ``patch_pca`` divides the image into as many patches and keeps as many components of each as
        the code has filters. Where the model removes noise, ``linear`` is the best linear map
        from noisy to clean images, of a rank that is the code's number of numbers.

        Images or patches of up to `LARGEST` values are fitted exactly, on all images. Larger ones
        are fitted within the leading directions of some images, which bounds time and memory.
        """
        whole = Patches(train.shape)
        seen = max(model.code_size, len(train) // IMAGES_PER_VALUE) if corruption else 0
        pca = _pca(train, whole, model.code_size, seen)
        maps: dict[str, tuple[Patches, LowRank | None]] = {"pca": (whole, pca.map)}
        notes = {"PCA": pca.note}
        filters, *grid = model.code_shape
        if prod(grid) > 1:
            patches = Patches(train.shape, tuple(grid))
            of_patches = _pca(train, patches, filters)
            maps["patch_pca"] = (patches, of_patches.map)
            notes["PCA of patches"] = of_patches.note
        if corruption:
            # a linear map that sees all of larger images overfits
            basis = None if seen >= whole.length else pca.directions[:seen]
            coordinates = Coordinates(pca.mean, basis)
            linear, note = _linear(train, whole, coordinates, model.code_size, corruption)
            maps["linear"], notes["the linear map"] = (whole, linear), note
        said = tuple(f"{name} {note}" for name, note in notes.items() if note)
        return cls(whole.join(pca.mean[None])[0], maps, corruption, said)

    def labels(self) -> dict[str, str]:
        """Name the baselines, as they are called in `errors`, in words."""
        named = {}
        for name, (patches, fitted) in self.maps.items():
            rank = patches.length if fitted is None else fitted.rank
            named[name] = {
                "pca": f"PCA with {counted(rank, 'component')}",
                "patch_pca": f"PCA of {'x'.join(map(str, patches.grid))} patches, {rank:,} of each",
                "linear": f"the best linear map of rank {rank:,}",
            }[name]
        return {**named, "mean_image": f"the mean {kind(self.mean_image.shape)}"}

    def errors(
        self, split: Split, use: Use = Use.TEST, batch_size: int = 256, quality: bool = False
    ) -> dict[str, float]:
        """Measure the baselines on all images of a split.

        Parameters
        ----------
        split : Split
            Images of the training images' shape.
        use : Use
            The noise on them; with the batch size of `convae.report.evaluation.measure` it is the
            same that a model of float32 is given.
        batch_size : int
            Images at a time.
        quality : bool
            Whether PSNR and SSIM are measured, too.

        Returns
        -------
        dict
            ``mean_image_mse``, ``pca_mse`` and, where they apply, ``patch_pca_mse`` and
            ``linear_mse``; of all but the mean image ``_psnr`` and ``_ssim`` with `quality`.
        """
        error, squares = 0.0, dict.fromkeys(self.maps, 0.0)
        qualities = {name: Quality() for name in self.maps}
        for x, y in _pairs(split, batch_size, self.corruption, use, count()):
            error += float(squared_errors(x, self.mean_image).sum()) / len(split)
            for name, (patches, fitted) in self.maps.items():
                R = y if fitted is None else patches.join(fitted(patches.cut(y)))
                if quality:
                    qualities[name].add(x, R)
                squares[name] += float(squared_errors(x, R).sum()) / len(split)
        figures = {"mean_image_mse": error}
        for name, square in squares.items():
            figures |= qualities[name].figures(name) if quality else {f"{name}_mse": square}
        return figures


@dataclass(frozen=True)
class _Pca:
    """PCA fitted to patches.

    The mean (P, L); leading directions (M, L), perhaps more than the map keeps; the map, None if it
    loses nothing; a note where it is not fitted on all images.
    """

    mean: Floats
    directions: Floats
    map: LowRank | None
    note: str = ""


def _pca(train: Split, patches: Patches, components: int, more: int = 0) -> _Pca:
    """Fit PCA to patches; so many leading directions, or more than components, are kept."""
    if patches.length > LARGEST:
        return _large_pca(train, patches, components, more)
    moments, scale = Moments(), 1.0
    for pixels in train.batches(_batch(train)):
        rows, scale = patches.cut(pixels), unit(pixels)
        moments.add(rows, rows)
    mean = (moments.mean * scale).astype(np.float32)
    needed = [number for number in (components, more) if number < patches.length]
    V = leading(moments.covariance(), max(needed, default=0)).astype(np.float32)
    if components >= patches.length:
        return _Pca(mean, V, None)
    kept = V[:components]
    return _Pca(mean, V, LowRank(Coordinates(mean), kept.T, kept))


def _large_pca(train: Split, patches: Patches, components: int, more: int) -> _Pca:
    """Fit PCA to large patches, within the leading directions of some images."""
    sums, scale = np.zeros((patches.number, patches.length)), 1.0
    for pixels in train.batches(_batch(train)):
        sums += patches.cut(pixels).sum(axis=0, dtype=np.float64)
        scale = unit(pixels)
    mean = (sums * (scale / len(train))).astype(np.float32)
    rows = _gathered(train, patches)
    sampled = len(rows)
    most = min(max(4 * components, more), LARGEST, BASIS_BYTES // (4 * patches.length))
    basis = snapshot_basis(rows, most)
    del rows  # they are as large as the basis
    coordinates, size = Coordinates(mean, basis), len(basis)
    if components >= patches.length:
        return _Pca(mean, basis, None)
    images = min(len(train), _affordable(patches, size))
    # more images help only where there is a choice among more directions than components
    if images <= sampled or size < 2 * components:
        V = np.eye(min(components, size), size, dtype=np.float32)
        return _Pca(mean, basis, LowRank(coordinates, V.T, V), _note(sampled, train))
    moments = Moments()
    for x, _ in _pairs(sample(train, images), _batch(train), CLEAN, Use.TRAINING, count()):
        z = coordinates.of(patches.cut(x))
        moments.add(z, z)
    V = leading(moments.covariance(), components).astype(np.float32)
    note = _note(images, train, f"within the {size:,} leading directions of {sampled:,}")
    return _Pca(mean, basis, LowRank(coordinates, V.T, V), note)


def _linear(
    train: Split, patches: Patches, coordinates: Coordinates, rank: int, corruption: Corruption
) -> tuple[LowRank, str]:
    """Fit the best linear map from noisy images to clean ones, as the coordinates show them."""
    basis = coordinates.basis
    size = patches.length if basis is None else len(basis)
    affordable = max(1, _affordable(patches, size) // 2)
    images = len(train) if basis is None else min(len(train), affordable)
    wanted = min(-(-PAIRS_PER_VALUE * size // images), affordable // images)
    some, noise = sample(train, images), count()
    yy, yx = Moments(), Moments()
    for _ in range(max(1, wanted)):
        for x, y in _pairs(some, _batch(train), corruption, Use.TRAINING, noise):
            clean, noisy = (coordinates.of(patches.cut(seen)) for seen in (x, y))
            yy.add(noisy, noisy)
            yx.add(noisy, clean)
    offset_of_y, offset = (mean.astype(np.float32) for mean in (yx.mean, yx.mean_of_y))
    factors = reduced_rank(yy.covariance(), yx.covariance(), rank)
    down, up = (factor.astype(np.float32) for factor in factors)
    how = "" if basis is None else f"within their {size:,} leading directions"
    return LowRank(coordinates, down, up, offset_of_y, offset), _note(images, train, how)


def _note(images: int, train: Split, how: str = "") -> str:
    """Say on how many images something was fitted, unless on all and in no special way."""
    if images == len(train) and not how:
        return ""
    number = "all" if images == len(train) else f"{images:,} of {len(train):,}"
    return f"is fitted on {number} training images{f', {how}' if how else ''}"


def _affordable(patches: Patches, size: int) -> int:
    """Return how many images can be projected on so many directions."""
    return max(1, int(WORK / (2 * size * patches.length * patches.number)))


def _batch(split: Split) -> int:
    """Return how many images pass through at a time."""
    return int(np.clip(BATCH_VALUES // prod(split.shape), 1, 1024))


def _gathered(train: Split, patches: Patches) -> Floats:
    """Gather the patches of as many images as there is room for: -> (N, P, L), of their dtype."""
    dtype = next(train.batches(1)).dtype
    room = min(LARGEST, SAMPLE_BYTES // (dtype.itemsize * patches.length)) // patches.number
    images = min(len(train), max(1, room))
    rows = np.empty((images, patches.number, patches.length), dtype)
    chosen = np.sort(np.random.default_rng(0).permutation(len(train))[:images])
    done, size = 0, 4 * _batch(train)
    for start in range(0, images, size):  # in parts, since a selection is a copy
        for pixels in train.select(chosen[start : start + size]).batches(_batch(train)):
            rows[done : done + len(pixels)] = patches.cut(pixels)
            done += len(pixels)
    return rows


def _pairs(
    split: Split, batch_size: int, corruption: Corruption, use: Use, indices: Iterator[int]
) -> Iterator[tuple[Floats, Floats]]:
    """Iterate over clean and noisy images, in float32 on the host."""
    backend = backend_for("cpu")
    for pixels in split.batches(batch_size):
        x = to_floats(pixels, backend, "float32")
        yield x, corruption(x, use, next(indices))
