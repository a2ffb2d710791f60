"""Checkerboards: what a strided decoder leaves on a constant picture (Odena et al. 2016)."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from convae.engine import to_numpy
from convae.models.model import Model

GREY = 0.5


def checkerboard(model: Model) -> float:
    """Measure the checkerboard in the reconstruction of a constant grey picture.

    A checkerboard stands out in the spectrum, at frequencies with a period of a stride, or of the
    product of several layers' strides, along an axis or along several. Returns by how much the
    amplitude of one of them exceeds those of all its neighbours, at most, in units of the range
    [0, 1]; 0 where none does, or nothing is strided.
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
                excess = amplitudes[(slice(None), *where)] - _around(amplitudes, where)
                largest = max(largest, float(excess.max()))
    return largest


def _around(amplitudes: np.ndarray[Any, Any], where: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Find the largest amplitude of the frequencies next to one, the mean apart: -> (C,)."""
    near = product(*((n - 1, n, n + 1) for n in where))
    sizes = amplitudes.shape[1:]
    wrapped = {tuple(n % size for n, size in zip(at, sizes, strict=True)) for at in near}
    others = wrapped - {where, (0,) * len(where)}
    largest: np.ndarray[Any, Any] = np.max(
        [amplitudes[(slice(None), *at)] for at in others], axis=0, initial=0
    )
    return largest


def _periods(model: Model) -> list[tuple[int, ...]]:
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
