"""Examples of any kind as pictures: signals as curves, volumes as slices, channels in grey.

Everything that a run or a command shows of examples passes through here.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageDraw

from convae.engine import Array, to_numpy

Floats: TypeAlias = np.ndarray[Any, Any]

BAND = 72
"""Height of the band in which a signal's one channel is drawn, in pixels."""

LEAST_BAND = 16
"""Height of a band where there are many."""

NARROWEST, WIDEST = 96, 192
"""Widths of a signal's picture: a pixel for each value as far as this allows."""

FINER = 2
"""Curves are drawn so many times larger, and reduced."""

PAPER, INK, PALE = 250, (20, 20, 20), (150, 185, 235)
"""Grey of the ground that curves are drawn on, their colour, and that of curves behind them."""

SMALLEST_SLICE = 32
"""Smaller slices are enlarged by an integer factor to at least so many pixels."""

MARGIN = 0.08
"""Part of a band that is left free above and below the range of [0, 1]."""


class Limits:
    """The range in which examples are shown: [0, 1] if they keep to it, else their own.

    Parameters
    ----------
    x : (N, C, *size) ndarray
        The examples that what is shown is compared with.
    """

    def __init__(self, x: Array) -> None:
        x = to_numpy(x)
        low, high = float(x.min()), float(x.max())
        is_unit = not (low < 0 or high > 1)
        self.low, self.spread = (0.0, 1.0) if is_unit else (low, high - low or 1.0)

    def __call__(self, x: Array) -> Floats:
        """Scale examples so that the range becomes [0, 1]."""
        scaled: Floats = (to_numpy(x) - self.low) / self.spread
        return scaled


def hot(values: Floats) -> Floats:
    """Colours from black over red and yellow to white: (...) of 0 to 1 -> (3, ...)."""
    colours: Floats = np.clip(np.stack([3 * values, 3 * values - 1, 3 * values - 2]), 0, 1)
    return colours


def warm(values: Floats) -> Floats:
    """Colours from white over yellow to red, on paper: (...) of 0 to 1 -> (3, ...)."""
    colours: Floats = np.clip(np.stack([1 + 0 * values, 2 - 2 * values, 1 - 2 * values]), 0, 1)
    return colours


def pictures_of(x: Floats, behind: Floats | None = None) -> Floats:
    """Show examples (N, C, *size) as pictures, (N, 1 or 3, rows, columns), of values in [0, 1].

    Signals become curves, one band for each channel, in front of others where these are given. Of
    volumes the three middle slices stand side by side. Three channels are colours; of other numbers
    but one the mean is shown.
    """
    if x.ndim == 3:
        return _curves(x, behind)
    if x.shape[1] not in (1, 3):
        x = x.mean(axis=1, keepdims=True)
    return _slices(x) if x.ndim == 5 else x


def _curves(x: Floats, behind: Floats | None) -> Floats:
    """Draw signals (N, C, L): -> (N, 3, rows, columns)."""
    N, C, L = x.shape
    band = max(LEAST_BAND, BAND // C)
    width, height = min(max(L, NARROWEST), WIDEST), C * band
    drawn = np.empty((N, 3, height, width), np.float32)
    for n in range(N):
        image = Image.new("RGB", (FINER * width, FINER * height), (PAPER,) * 3)
        draw = ImageDraw.Draw(image)
        for signals, colour in ((behind, PALE), (x, INK)):
            for channel, values in enumerate(() if signals is None else signals[n]):
                _curve(draw, values, FINER * band * channel, FINER * band, FINER * width, colour)
        drawn[n] = np.asarray(image.reduce(FINER), np.float32).transpose(2, 0, 1) / 255
    return drawn


def _curve(
    draw: ImageDraw.ImageDraw,
    values: Floats,
    top: int,
    height: int,
    width: int,
    colour: tuple[int, int, int],
) -> None:
    """Draw one channel (L,) into its band."""
    across = np.linspace(0, width - 1, max(len(values), 2))
    inner = MARGIN + (1 - 2 * MARGIN) * (1 - np.nan_to_num(values))
    down = top + np.clip(inner, 0, 1) * (height - 1)
    points = zip(across.tolist(), np.broadcast_to(down, across.shape).tolist(), strict=True)
    draw.line(list(points), fill=colour, width=FINER)


def _slices(x: Floats) -> Floats:
    """Take the middle slice along each axis of volumes (N, C, D, H, W), and lay them in a row."""
    D, H, W = x.shape[2:]
    planes = (x[:, :, D // 2], x[:, :, :, H // 2], x[:, :, :, :, W // 2])
    tallest = max(plane.shape[2] for plane in planes)
    padded = [
        np.pad(plane, ((0, 0), (0, 0), (0, tallest - plane.shape[2]), (0, 1))) for plane in planes
    ]
    factor = max(1, -(-SMALLEST_SLICE // tallest))
    row = np.concatenate(padded, axis=3)[..., :-1]
    return row.repeat(factor, axis=2).repeat(factor, axis=3)
