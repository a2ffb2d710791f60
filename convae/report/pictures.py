"""Arrays as pictures: reconstructions below their originals, and filters in a grid."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from convae.engine import Array, to_numpy

SMALLEST_SIDE = 48
"""Smaller images are enlarged by an integer factor to at least so many pixels a side."""

SMALLEST_KERNEL = 12
"""The same for a single kernel."""

GAP = 4
"""Pixels between two images of a grid."""

BACKGROUND = (70, 110, 160)
"""Colour of the gaps: one that neither grey images nor filters contain."""

LETTERS = 0.45
"""Size of the letters beside a row of images, as a fraction of its height."""

HOTTEST = 0.5
"""The difference of grey values, or its mean over colours, that is white in error maps."""

SOFTWARE = "convae"
"""What our PNG files have as their software, so that they can be told from others."""

MOST_FILTERS = 256
"""Filters in one picture, at most."""


def grid(
    images: np.ndarray[Any, Any], columns: int, enlarge: bool = True, gap: int = GAP
) -> np.ndarray[Any, Any]:
    """Lay images (N, C, H, W) out in rows: -> (rows, columns, 3) of uint8.

    Values are clipped to [0, 1]; `enlarge` says whether small images are enlarged.
    """
    factor = max(1, -(-SMALLEST_SIDE // max(images.shape[2:]))) if enlarge else 1
    levels = np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)
    levels = levels.repeat(factor, axis=2).repeat(factor, axis=3)
    count, _, height, width = levels.shape
    rows = -(-count // columns)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, 3)
    canvas = np.full(shape, BACKGROUND, np.uint8)
    for index, image in enumerate(levels):
        row, column = divmod(index, columns)
        top, left = row * (height + gap), column * (width + gap)
        canvas[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    return canvas


def reconstruction_grid(*rows: Array) -> np.ndarray[Any, Any]:
    """Stack rows of images (N, C, H, W), grey or in colour: originals, reconstructions and so on.

    -> (rows, columns, 3) of uint8
    """
    coloured = [np.broadcast_to(to_numpy(r), (len(r), 3, *r.shape[2:])) for r in rows]
    return grid(np.concatenate(coloured), columns=len(rows[0]))


def comparison(
    x: Array, given: Array | None, R: Array, errors: bool = False
) -> np.ndarray[Any, Any]:
    """Compare images with their reconstructions, in rows that say what they are.

    x, R (N, C, H, W); given, corrupted images, or None; `errors` adds a row of error maps
    -> (rows, columns, 3) of uint8
    """
    rows = {"original": x}
    if given is not None:
        rows["noisy"] = given
    rows["reconstruction"] = R
    if errors:
        rows["error"] = error_maps(x, R)
    return _labelled(reconstruction_grid(*rows.values()), list(rows))


def _labelled(picture: np.ndarray[Any, Any], labels: list[str]) -> np.ndarray[Any, Any]:
    """Add a column on the left that names each of a picture's rows, which are equally high."""
    pitch = (len(picture) + GAP) / len(labels)
    size = pitch * LETTERS
    font, bold = ImageFont.load_default(size), round(size / 24)  # TensorBoard loses thin lines
    width = 4 * GAP + int(max(font.getlength(label) for label in labels))
    canvas = Image.new("RGB", (width, len(picture)), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for row, label in enumerate(labels):
        middle = row * pitch + (pitch - GAP) / 2
        for shift in (0, bold):
            draw.text((width - 2 * GAP - shift, middle), label, "white", font, anchor="rm")
    return np.concatenate([np.asarray(canvas), picture], axis=1)


def error_maps(x: Array, R: Array) -> np.ndarray[Any, Any]:
    """Show where reconstructions differ from images: x, R (N, C, H, W) -> (N, 3, H, W).

    The absolute difference, averaged over channels, from black over red and yellow to white.
    """
    difference = np.abs(to_numpy(x) - to_numpy(R)).mean(axis=1) / HOTTEST
    heat = np.stack([3 * difference, 3 * difference - 1, 3 * difference - 2], axis=1)
    return np.asarray(np.clip(heat, 0, 1))


def feature_maps(H: Array) -> np.ndarray[Any, Any]:
    """Show each filter's activation (O, *output) on one image, stretched to its own range.

    A constant activation is black. -> (rows, columns, 3) of uint8
    """
    maps = to_numpy(H)[:MOST_FILTERS, None].astype(np.float64)
    least = maps.min(axis=(2, 3), keepdims=True)
    spread = maps.max(axis=(2, 3), keepdims=True) - least
    shades = (maps - least) / np.where(spread > 0, spread, 1)
    return grid(shades, columns=int(np.ceil(np.sqrt(len(shades)))))


def filter_grid(K: Array, axes: int) -> np.ndarray[Any, Any]:
    """Show a layer's kernels, each stretched to its own range around mid-grey.

    Filters of three channels are shown in colour, others as the mean over their channels. The
    kernels of a tile stand in one block, each at its place in the tile. One-dimensional filters are
    drawn as stripes, of three-dimensional ones the middle slice is drawn.

    K (O, [*tile,] C, *kernel) -> (rows, columns, 3) of uint8
    """
    kernel = to_numpy(K)[:MOST_FILTERS].astype(np.float64)
    filters, *tile = kernel.shape[: kernel.ndim - axes - 1]
    kernel = kernel.reshape(filters, *(tile or [1] * axes), *kernel.shape[kernel.ndim - axes - 1 :])
    if axes == 1:  # a row of pixels for each kernel
        kernel = kernel[:, None, :, :, None]
    if axes == 3:  # of tile and kernel, the middle slice
        kernel = kernel[:, kernel.shape[1] // 2]
        kernel = kernel[:, :, :, :, kernel.shape[4] // 2]
    if kernel.shape[3] != 3:
        kernel = kernel.mean(axis=3, keepdims=True)
    largest = np.abs(kernel).max(axis=(3, 4, 5), keepdims=True)
    shades = 0.5 + 0.5 * kernel / np.where(largest > 0, largest, 1)
    factor = max(1, -(-SMALLEST_KERNEL // max(shades.shape[4:])))
    shades = shades.repeat(factor, axis=4).repeat(factor, axis=5)
    shades = np.pad(shades, [(0, 0)] * 4 + [(0, 1)] * 2, constant_values=1)  # lines between kernels
    _, down, across, channels, height, width = shades.shape
    blocks = shades.transpose(0, 3, 1, 4, 2, 5).reshape(-1, channels, down * height, across * width)
    return grid(blocks[:, :, :-1, :-1], columns=int(np.ceil(np.sqrt(len(blocks)))))


def png(picture: np.ndarray[Any, Any]) -> bytes:
    """Encode a picture (rows, columns, 3) of uint8 as a PNG file."""
    buffer, made_by = io.BytesIO(), PngInfo()
    made_by.add_text("Software", SOFTWARE)
    Image.fromarray(picture).save(buffer, "PNG", pnginfo=made_by)
    return buffer.getvalue()


def figure_png(draw: Callable[[Any], None], size: tuple[float, float] = (6.0, 4.0)) -> bytes:
    """Draw a diagram of `size` inches with matplotlib's axes, and return a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained", dpi=120)
    draw(figure.subplots())
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
