"""Structural similarity of two images (Wang et al. 2004), and its gradient.

It compares means, variances and the covariance under a window at every place. With ``m`` for the
mean under the window, a linear map, and c1, c2 against division by zero,

    SSIM(x, R) = (2 mx mr + c1) (2 sxr + c2) / ((mx^2 + mr^2 + c1) (sxx + srr + c2))

where ``mx = m(x)``, ``sxx = m(x^2) - mx^2``, ``sxr = m(x R) - mx mr`` and so on.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from convae.engine import Array, array_module

Floats: TypeAlias = np.ndarray[Any, Any]

GAUSSIAN, SIGMA = 11, 1.5
"""Side and standard deviation, in pixels, of the window."""

UNIFORM = 7
"""Side of the uniform window, at most, that smaller images get."""

C1, C2 = 0.01**2, 0.03**2
"""What keeps the two quotients finite, for values in [0, 1]."""


@cache
def windows(*sides: int) -> tuple[Floats, ...]:
    """Make matrices (side - window + 1, side) that average along an axis under the window.

    The window is a Gaussian of 11 along each axis; for images with a side below 11 it is uniform,
    of 7 or the largest odd number that fits.
    """
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
    return tuple(matrices)


def along_axes(values: Array, matrices: list[Array]) -> Array:
    """Multiply every axis of positions by a matrix: (N, C, *size) -> (N, C, *rows)."""
    xp = array_module(values)
    for matrix in reversed(matrices):  # along the last axis, which then becomes the first one
        products = values.reshape(-1, values.shape[-1]) @ matrix.T
        values = xp.moveaxis(products.reshape(*values.shape[:-1], len(matrix)), -1, 2)
    return values


class Compared(NamedTuple):
    """Means under the windows, and the four factors of SSIM: (N, C, *places) each."""

    mx: Array
    mr: Array
    luminance: Array  # 2 mx mr + c1
    structure: Array  # 2 sxr + c2
    energy: Array  # mx^2 + mr^2 + c1
    variance: Array  # sxx + srr + c2

    def ssim(self) -> Array:
        """Return the similarity at every place."""
        return self.luminance * self.structure / (self.energy * self.variance)

    def contrast(self) -> Array:
        """Return the similarity without that of the means."""
        return self.structure / self.variance


def compare(x: Array, R: Array) -> tuple[Compared, list[Array]]:
    """Compare images (N, C, *size); returns the matrices of the windows, too."""
    xp = array_module(x)
    dtype = "float64" if x.dtype == "float64" else "float32"
    # batches have their channels innermost; in this order each mean is a few large products
    x, R = (xp.ascontiguousarray(images, dtype=dtype) for images in (x, R))
    matrices = [xp.asarray(matrix, dtype=dtype) for matrix in windows(*x.shape[2:])]
    mx, mr, xx, rr, xr = (along_axes(a, matrices) for a in (x, R, x * x, R * R, x * R))
    energy = mx * mx + mr * mr
    found = Compared(
        mx,
        mr,
        2 * mx * mr + C1,
        2 * (xr - mx * mr) + C2,
        energy + C1,
        xx + rr - energy + C2,
    )
    return found, matrices


def gradient(x: Array, R: Array) -> tuple[Array, Array]:
    """Return SSIM (N, C, *places), and the gradient of its sum with respect to R (N, C, *size).

    The derivatives with respect to m(R), m(R^2) and m(x R) go back through the transpose of m.
    """
    found, matrices = compare(x, R)
    mx, mr, luminance, structure, energy, variance = found
    S = found.ssim()
    of_xr = 2 * luminance / (energy * variance)
    of_rr = -S / variance
    of_mr = 2 * mx * structure / (energy * variance) - mx * of_xr
    of_mr += 2 * mr * S * (1 / variance - 1 / energy)
    transposed = [matrix.T for matrix in matrices]
    back = [along_axes(values, transposed) for values in (of_mr, of_rr, of_xr)]
    return S, back[0] + 2 * R * back[1] + x * back[2]
