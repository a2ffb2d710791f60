"""How alike two images are: mean squared error, PSNR and SSIM, of values in [0, 1]."""

from __future__ import annotations

from math import log10
from typing import Any

import numpy as np

from convae.engine import Array, array_module, to_numpy

GAUSSIAN, SIGMA = 11, 1.5
"""Side and standard deviation, in pixels, of SSIM's window."""

UNIFORM = 7
"""Side of the uniform window, at most, that smaller images get."""

C1, C2 = 0.01**2, 0.03**2
"""What keeps SSIM's two quotients finite."""


def squared_errors(x: Array, R: Array) -> np.ndarray[Any, Any]:
    """Mean squared error of each image: x, R (N, *shape) -> (N,) of float64."""
    return to_numpy(((x - R) ** 2).reshape(len(x), -1).mean(axis=1, dtype="float64"))


def psnr(squared_error: float) -> float:
    """Turn a mean squared error into decibels, ``10 log10(1 / error)``: inf for 0."""
    return -10 * log10(squared_error) if squared_error else float("inf")


def ssim(x: Array, R: Array) -> np.ndarray[Any, Any]:
    """Structural similarity of each image, 1 if equal: x, R (N, C, *size) -> (N,) of float64.

    The mean over all channels and all places of the window within the image (Wang et al. 2004,
    equation 13). The window is theirs, a Gaussian of 11x11 pixels, along the axes of a signal or
    a volume likewise; for images with a side below 11 it is uniform, of 7x7 pixels or the largest
    odd number that fits.
    """
    xp = array_module(x)
    dtype = "float64" if x.dtype == "float64" else "float32"
    # batches have their channels innermost; in this order each mean is a few large products
    x, R = (xp.ascontiguousarray(images, dtype=dtype) for images in (x, R))
    windows = [xp.asarray(matrix, dtype=dtype) for matrix in _windows(*x.shape[2:])]

    def mean(values: Array) -> Array:
        for matrix in reversed(windows):  # along the last axis, which then is the first one
            means = values.reshape(-1, values.shape[-1]) @ matrix.T
            values = xp.moveaxis(means.reshape(*values.shape[:-1], -1), -1, 2)
        return values

    mx, mr = mean(x), mean(R)
    xx, rr, xr = mean(x * x) - mx * mx, mean(R * R) - mr * mr, mean(x * R) - mx * mr
    alike = (2 * mx * mr + C1) * (2 * xr + C2)
    alike /= (mx * mx + mr * mr + C1) * (xx + rr + C2)
    return to_numpy(alike.reshape(len(x), -1).mean(axis=1, dtype="float64"))


def _windows(*sides: int) -> list[np.ndarray[Any, Any]]:
    """Make matrices (side - window + 1, side) that average along an axis under the window."""
    smallest = min(sides)
    if smallest >= GAUSSIAN:
        window = np.exp(-0.5 * ((np.arange(GAUSSIAN) - GAUSSIAN // 2) / SIGMA) ** 2)
    else:
        window = np.ones(min(UNIFORM, smallest - 1 + smallest % 2))
    window /= window.sum()
    matrices = []
    for side in sides:
        places = side - len(window) + 1
        matrix = np.zeros((places, side))
        for place in range(places):
            matrix[place, place : place + len(window)] = window
        matrices.append(matrix)
    return matrices


class Quality:
    """Running means, over images, of squared error, PSNR and SSIM.

    PSNR is the mean of the images' own, as is usual for denoising: unlike that of the mean error it
    says something of its own. One image without any error makes it infinite.
    """

    def __init__(self) -> None:
        self._sums = np.zeros(3)
        self._count = 0

    def add(self, x: Array, R: Array) -> None:
        """Compare images with their reconstructions, (N, C, *size) in [0, 1]."""
        errors = squared_errors(x, R)
        decibels = sum(psnr(float(error)) for error in errors)
        self._sums += [errors.sum(), decibels, ssim(x, R).sum()]
        self._count += len(x)

    def figures(self, name: str) -> dict[str, float]:
        """Return the means as ``<name>_mse``, ``<name>_psnr`` in dB, and ``<name>_ssim``."""
        means = (float(total) / self._count for total in self._sums)
        return {f"{name}_{what}": v for what, v in zip(("mse", "psnr", "ssim"), means, strict=True)}
