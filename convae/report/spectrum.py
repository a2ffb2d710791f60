"""Checkerboards: what a strided decoder leaves on a constant picture (Odena et al. 2016)."""

from __future__ import annotations

from itertools import product

import numpy as np

from convae.engine import to_numpy
from convae.models.autoencoder import Autoencoder

GREY = 0.5


def checkerboard(model: Autoencoder) -> float:
    """Measure the checkerboard in the reconstruction of a constant grey picture.

    Returns the largest amplitude, in units of the range [0, 1], of its frequencies with a period of
    a stride, or of the product of several layers' strides, along an axis or along several; 0 where
    nothing is strided.
    """
    x = np.full((1, *model.input_shape), GREY, model.dtype)
    R = to_numpy(model.reconstruct(model.xp.asarray(x)))[0]  # (C, *size)
    axes = tuple(range(1, R.ndim))
    amplitudes = np.abs(np.fft.fftn(R, axes=axes)) / np.prod(R.shape[1:])
    largest = 0.0
    for periods in _periods(model):
        bins = [
            range(0, size, size // period)
            for size, period in zip(R.shape[1:], periods, strict=True)
        ]
        for where in product(*bins):
            if any(where):
                largest = max(largest, float(amplitudes[(slice(None), *where)].max()))
    return largest


def _periods(model: Autoencoder) -> list[tuple[int, ...]]:
    """List the strides of the lowest layers, multiplied up, as far as they divide the picture."""
    periods, total = [], (1,) * len(model.input_shape[1:])
    for layer in model.layers:
        total = tuple(a * b for a, b in zip(total, layer.geometry.stride, strict=True))
        divides = all(
            n % t == 0 and t < n for n, t in zip(model.input_shape[1:], total, strict=True)
        )
        if max(total) > 1 and divides:
            periods.append(total)
    return periods
