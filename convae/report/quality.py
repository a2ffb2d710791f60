"""How alike two images are: mean squared error, PSNR and SSIM, of values in [0, 1]."""

from __future__ import annotations

from math import log10
from typing import Any

import numpy as np

from convae.engine import Array, to_numpy
from convae.models.similarity import compare
from convae.processes import ALONE, Group


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
    found, _ = compare(x, R)
    return to_numpy(found.ssim().reshape(len(x), -1).mean(axis=1, dtype="float64"))


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

    def figures(self, name: str, group: Group = ALONE) -> dict[str, float]:
        """Return the means as ``<name>_mse``, ``<name>_psnr`` in dB, and ``<name>_ssim``.

        They are over the images of all processes of the group.
        """
        *sums, count = group.sum([*self._sums, self._count])
        means = (total / count for total in sums)
        return {f"{name}_{what}": v for what, v in zip(("mse", "psnr", "ssim"), means, strict=True)}
