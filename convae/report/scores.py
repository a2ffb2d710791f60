"""Scores: how unlike the training images an image is, by its reconstruction or by its code.

All of them are higher for anomalies. Most have a map, whose place says where an image is unusual.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeAlias

import numpy as np

from convae.engine import Array, array_module, to_numpy
from convae.models.similarity import GAUSSIAN, along_axes, compare

Floats: TypeAlias = np.ndarray[Any, Any]

SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the similarity at each scale, from the finest (Wang, Simoncelli, Bovik 2003)."""

GRADIENT_C = 0.0026
"""What keeps the similarity of gradients finite: 170 / 255^2 (Xue et al. 2014)."""

SMOOTHED_PART = 28
"""The error's peak is smoothed by a Gaussian of this part of the shorter side, at least 1 pixel."""

TINY = 1e-12
"""Least number whose logarithm is taken."""

FLOOR = 1e-6
"""Least mean squared distance from the mean image by which an error is divided."""


@dataclass(frozen=True)
class Normal:
    """What normal images are like, beyond what a model knows.

    Parameters
    ----------
    mean_image : (C, *size) ndarray
        Their mean.
    mean_code : (L,) ndarray
        The mean of their codes.
    whitening : (L, M) ndarray
        What makes the codes' covariance the identity: differences from the mean are multiplied by
        it from the right.
    logarithms : (2, 2) ndarray
        Of the logarithms of their dissimilarity over several scales, and of their codes' distances,
        the mean and the deviation.
    """

    mean_image: Floats
    mean_code: Floats
    whitening: Floats
    logarithms: Floats = field(default_factory=lambda: np.array([[0.0, 1.0], [0.0, 1.0]]))


@dataclass(frozen=True)
class Seen:
    """A batch of images, and what a model makes of them.

    Parameters
    ----------
    x, R : (N, C, *size) ndarray
        Images, and their reconstructions.
    H : (N, O, *output) ndarray
        Their codes.
    normal : Normal, optional
        What normal images are like; some scores need it.
    """

    x: Array
    R: Array
    H: Array
    normal: Normal | None = None


def _per_image(values: Array) -> Floats:
    """Average over all but the first axis: -> (N,) of float64."""
    return to_numpy(values.reshape(len(values), -1).mean(axis=1, dtype="float64"))


def _squared_map(seen: Seen) -> Array:
    return ((seen.x - seen.R) ** 2).mean(axis=1)


def _squared_error(seen: Seen) -> Floats:
    return _per_image((seen.x - seen.R) ** 2)


def _ssim_map(seen: Seen) -> Array:
    """1 - SSIM at the middle of each window, mean over channels, continued to the edges."""
    xp = array_module(seen.x)
    found, _ = compare(seen.x, seen.R)
    values = 1 - found.ssim().mean(axis=1)
    widths = [(n - m, m) for n, m in zip(seen.x.shape[2:], values.shape[1:], strict=True)]
    edges = [(missing // 2, missing - missing // 2) for missing, _ in widths]
    return xp.pad(values, [(0, 0), *edges], mode="edge")


def _ssim(seen: Seen) -> Floats:
    found, _ = compare(*_exact(seen.x, seen.R))
    return _per_image(1 - found.ssim())


def _exact(*images: Array) -> list[Array]:
    """Take images as float64: of like ones float32 leaves little of the difference."""
    return [image.astype("float64") for image in images]


def _ms_ssim(seen: Seen) -> Floats:
    """``1 - prod of similarities`` at scales that halve, as many as have room for the window."""
    x, R = _exact(seen.x, seen.R)
    scales = 1
    while scales < len(SCALES) and min(x.shape[2:]) // 2**scales >= GAUSSIAN:
        scales += 1
    weights = np.array(SCALES[:scales]) / sum(SCALES[:scales])
    product = np.ones(len(x))
    for scale, weight in enumerate(weights):
        found, _ = compare(x, R)
        alike = found.ssim() if scale == scales - 1 else found.contrast()
        product *= np.clip(_per_image(alike), 0, None) ** weight
        if scale < scales - 1:
            x, R = _halved(x), _halved(R)
    return 1 - product


def _halved(x: Array) -> Array:
    """Average pairs along each axis of positions."""
    for axis in range(2, x.ndim):
        pairs = x.shape[axis] // 2
        before, after = x.shape[:axis], x.shape[axis + 1 :]
        even = x[(slice(None),) * axis + (slice(0, 2 * pairs),)]
        x = even.reshape(*before, pairs, 2, *after).mean(axis=axis + 1)
    return x


@cache
def _slopes(side: int) -> tuple[Floats, Floats]:
    """Make matrices that smooth and differentiate along an axis, Prewitt's; edges are repeated."""
    near = np.clip(np.arange(side)[:, None] + (-1, 0, 1), 0, side - 1)
    one = np.eye(side)
    return one[near].mean(axis=1), (one[near[:, 2]] - one[near[:, 0]]) / 2


def _magnitude(x: Array) -> Array:
    """Length of the gradient at each position: (N, C, *size) -> (N, C, *size)."""
    xp = array_module(x)
    x = xp.ascontiguousarray(x, dtype=x.dtype)
    total = xp.zeros_like(x)
    for axis in range(x.ndim - 2):
        matrices = [
            xp.asarray(_slopes(side)[int(n == axis)], dtype=x.dtype)
            for n, side in enumerate(x.shape[2:])
        ]
        total += along_axes(x, matrices) ** 2
    return xp.sqrt(total)


def _gradient_map(seen: Seen) -> Array:
    """``1 - (2 g_x g_R + c) / (g_x^2 + g_R^2 + c)``, of gradient magnitudes, mean over channels."""
    a, b = _magnitude(seen.x), _magnitude(seen.R)
    return (1 - (2 * a * b + GRADIENT_C) / (a * a + b * b + GRADIENT_C)).mean(axis=1)


def _gradient(seen: Seen) -> Floats:
    return _per_image(_gradient_map(seen))


@cache
def _smoothing(side: int, sigma: float) -> Floats:
    """Make a matrix that smooths along an axis by a Gaussian, normalised at the edges."""
    distance = np.arange(side)[:, None] - np.arange(side)
    weights = np.exp(-0.5 * (distance / sigma) ** 2)
    smoothed: Floats = weights / weights.sum(axis=1, keepdims=True)
    return smoothed


def _smooth_map(seen: Seen) -> Array:
    """Smooth the squared error by a Gaussian."""
    xp = array_module(seen.x)
    errors = xp.ascontiguousarray(_squared_map(seen))[:, None]
    sigma = max(1.0, min(errors.shape[2:]) / SMOOTHED_PART)
    matrices = [xp.asarray(_smoothing(n, sigma), dtype=errors.dtype) for n in errors.shape[2:]]
    return along_axes(errors, matrices)[:, 0]


def _peak(seen: Seen) -> Floats:
    errors = _smooth_map(seen)
    return to_numpy(errors.reshape(len(errors), -1).max(axis=1)).astype(np.float64)


def _relative(seen: Seen) -> Floats:
    assert seen.normal is not None
    mean = array_module(seen.x).asarray(seen.normal.mean_image, dtype=seen.x.dtype)
    return _squared_error(seen) / (_per_image((seen.x - mean) ** 2) + FLOOR)


def _mahalanobis(seen: Seen) -> Floats:
    assert seen.normal is not None
    codes = to_numpy(seen.H).reshape(len(seen.H), -1).astype(np.float64)
    z = (codes - seen.normal.mean_code) @ seen.normal.whitening
    distances: Floats = np.sqrt((z**2).mean(axis=1))
    return distances


def logarithms(seen: Seen) -> Floats:
    """Logarithms of the dissimilarity over several scales and of the code's distance: (2, N)."""
    parts = np.stack([_ms_ssim(seen), _mahalanobis(seen)])
    found: Floats = np.log(np.maximum(parts, TINY))
    return found


def _combined(seen: Seen) -> Floats:
    """Take the soft maximum of both logarithms, in deviations from their means: one is enough."""
    assert seen.normal is not None
    mean, deviation = seen.normal.logarithms.T[:, :, None]
    z = (logarithms(seen) - mean) / deviation
    combined: Floats = np.logaddexp(*z) - np.log(2)
    return combined


@dataclass(frozen=True)
class Score:
    """A score by name.

    Parameters
    ----------
    name : str
        The name used in configurations.
    meaning : str
        What it is, in words.
    function : callable
        From `Seen` to (N,) of float64.
    map : callable
        From `Seen` to (N, *size), where images are unusual.
    needs_normal : bool
        Whether it needs to know what normal images are like.
    """

    name: str
    meaning: str
    function: Callable[[Seen], Floats]
    map: Callable[[Seen], Array] = _squared_map
    needs_normal: bool = False


SCORES = {
    score.name: score
    for score in (
        Score("squared_error", "the mean squared error", _squared_error),
        Score("ssim", "1 - SSIM", _ssim, _ssim_map),
        Score("ms_ssim", "1 - SSIM over several scales", _ms_ssim, _ssim_map),
        Score("gradient", "1 - the similarity of gradients", _gradient, _gradient_map),
        Score("peak", "the largest squared error, smoothed", _peak, _smooth_map),
        Score(
            "relative",
            "the squared error over that of the mean image",
            _relative,
            _smooth_map,
            needs_normal=True,
        ),
        Score(
            "mahalanobis",
            "the code's Mahalanobis distance",
            _mahalanobis,
            _smooth_map,
            needs_normal=True,
        ),
        Score(
            "combined",
            "ms_ssim or mahalanobis, in deviations from normal images' mean",
            _combined,
            _smooth_map,
            needs_normal=True,
        ),
    )
}
"""All scores by name."""
