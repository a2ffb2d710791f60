"""Where an example is unusual: its map in colours over its picture, beside a bar with values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from convae.report.pictures import BACKGROUND, GAP, grid
from convae.report.views import Limits, hot, pictures_of, warm

Floats: TypeAlias = np.ndarray[Any, Any]

SMALLEST = 96
"""Smaller pictures are enlarged by an integer factor to at least so many pixels a side."""

OPACITY = 0.85
"""Of the colours of the highest values; 0 is transparent."""

BAR = 14
"""Width of the bar of colours, in pixels."""

LETTERS = 12
"""Size of its numbers, in pixels."""


def overlay(picture: Floats, unusual: Floats, top: float, on_paper: bool = False) -> Floats:
    """Colour a picture where it is unusual.

    picture (1 or 3, H, W) of 0 to 1; unusual (H, W), of which `top` and more is white; behind
    curves, which are drawn on paper, it is red -> (3, H, W)
    """
    heat = np.clip(np.nan_to_num(unusual / top, nan=1), 0, 1)
    if on_paper:
        coloured: Floats = picture.mean(axis=0) * warm(heat)
        return coloured
    opacity = OPACITY * np.sqrt(heat)
    covered: Floats = picture.mean(axis=0) * (1 - opacity) + hot(heat) * opacity
    return covered


def map_figure(x: Floats, R: Floats, unusual: Floats, top: float) -> np.ndarray[Any, Any]:
    """Show one example, its reconstruction, and the example with its map, beside a bar.

    x, R (C, *size); unusual (*size) -> (rows, columns, 3) of uint8
    """
    scaled = Limits(x)
    x, R = scaled(x), scaled(R)
    (original,), (reconstruction,) = pictures_of(x[None]), pictures_of(R[None], behind=x[None])
    height, width = original.shape[1:]
    is_signal = unusual.ndim == 1
    if is_signal:  # the ground behind a curve
        places = np.linspace(0, len(unusual) - 1, width)
        values = np.interp(places, np.arange(len(unusual)), unusual)
        spread = np.broadcast_to(values, (height, width))
    else:
        spread = pictures_of(unusual[None, None])[0, 0]
    covered = overlay(original, spread, top, is_signal)
    shown = [np.broadcast_to(p, (3, height, width)) for p in (original, reconstruction, covered)]
    factor = max(1, -(-SMALLEST // max(height, width)))
    enlarged = np.stack(shown).repeat(factor, axis=2).repeat(factor, axis=3)
    panels = grid(enlarged, columns=3, enlarge=False)
    return np.concatenate([panels, _bar(len(panels), top, warm if is_signal else hot)], axis=1)


def _bar(height: int, top: float, colours: Callable[[Floats], Floats]) -> np.ndarray[Any, Any]:
    """Draw the bar of colours and the numbers at its ends: -> (height, columns, 3) of uint8."""
    font = ImageFont.load_default(LETTERS)
    width = int(font.getlength(f"{top:.2g}")) + BAR + 3 * GAP
    canvas = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for row in range(height):
        colour = colours(np.array(1 - row / max(1, height - 1)))
        fill = tuple(int(level) for level in np.rint(255 * colour))
        draw.line([(GAP, row), (GAP + BAR - 1, row)], fill=fill)
    draw.text((width - GAP, 0), f"{top:.2g}", "white", font, anchor="rt")
    draw.text((width - GAP, height), "0", "white", font, anchor="rb")
    return np.asarray(canvas)
