"""Pictures in grids: reconstructions below their originals, and filters in a grid."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from convae.engine import Array, to_numpy
from convae.report.views import NARROWEST, Limits, hot, pictures_of

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

WIDEST = 1600
"""Width from which on a row of pictures continues in another one."""

STRIPE = 8
"""Height of a filter's activation on a signal, in pixels."""


def grid(
    images: np.ndarray[Any, Any], columns: int, enlarge: bool = True, gap: int = GAP
) -> np.ndarray[Any, Any]:
    """Lay images (N, C, H, W) out in rows: -> (rows, columns, 3) of uint8.

    Values are clipped to [0, 1]; `enlarge` says whether small images are enlarged.
    """
    factor = max(1, -(-SMALLEST_SIDE // max(images.shape[2:]))) if enlarge else 1
    levels = to_bytes(images)
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


def to_bytes(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Turn floats, clipped to [0, 1], into uint8."""
    levels: np.ndarray[Any, Any] = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return levels


def picture(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Turn an image (1 or 3, H, W), of floats or uint8, into a picture (H, W, 3) of uint8."""
    levels = image if image.dtype == np.uint8 else to_bytes(image)
    return np.ascontiguousarray(np.broadcast_to(levels, (3, *levels.shape[1:])).transpose(1, 2, 0))


def rows_of_pictures(*rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Stack rows of pictures (N, 1 or 3, H, W), grey or in colour: -> (rows, columns, 3)."""
    coloured = [np.broadcast_to(row, (len(row), 3, *row.shape[2:])) for row in rows]
    return grid(np.concatenate(coloured), columns=len(rows[0]))


def compared(
    x: Array, given: Array | None, R: Array, errors: bool = False
) -> dict[str, np.ndarray[Any, Any]]:
    """Show examples, what the model was given of them, and reconstructions, by their names.

    x, R (N, C, *size); given, corrupted examples, or None; `errors` adds error maps
    -> pictures (N, 1 or 3, H, W)
    """
    scaled = Limits(x)
    x, R = scaled(x), scaled(R)
    shown = {"original": pictures_of(x)}
    if given is not None:
        shown["noisy"] = pictures_of(scaled(given))
    shown["reconstruction"] = pictures_of(R, behind=x)
    if errors:
        shown["error"] = error_maps(x, R)
    return shown


def comparison(
    x: Array, given: Array | None, R: Array, errors: bool = False
) -> np.ndarray[Any, Any]:
    """Lay out what `compared` shows in rows that say what they are: -> (rows, columns, 3).

    Many wide pictures continue below, in rows that begin anew.
    """
    shown = compared(x, given, R, errors)
    columns = max(1, WIDEST // (shown["original"].shape[3] + GAP))
    blocks: list[np.ndarray[Any, Any]] = []
    for start in range(0, len(x), columns):
        rows = [row[start : start + columns] for row in shown.values()]
        block = _labelled(rows_of_pictures(*rows), list(shown))
        if blocks:
            missing = blocks[0].shape[1] - block.shape[1]
            edges = ((2 * GAP, 0), (0, missing), (0, 0))
            ground = np.array(BACKGROUND, np.uint8)
            block = np.pad(block - ground, edges) + ground  # bytes wrap around, and come back
        blocks.append(block)
    return np.concatenate(blocks)


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


def error_maps(x: np.ndarray[Any, Any], R: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Show where reconstructions differ from examples: x, R (N, C, *size) -> (N, 3, H, W).

    The absolute difference: of signals as curves; else averaged over channels, from black over red
    and yellow to white.
    """
    if x.ndim == 3:
        return pictures_of(np.abs(x - R) / HOTTEST)
    difference = np.abs(x - R).mean(axis=1) / HOTTEST
    return pictures_of(np.moveaxis(hot(difference), 0, 1))


def feature_maps(H: Array) -> np.ndarray[Any, Any]:
    """Show each filter's activation (O, *output) on one image, stretched to its own range.

    A constant activation is black; activations on a signal are stripes, and of those on a volume
    the middle slices are shown. -> (rows, columns, 3) of uint8
    """
    maps = to_numpy(H)[:MOST_FILTERS, None].astype(np.float64)
    positions = tuple(range(2, maps.ndim))
    least = maps.min(axis=positions, keepdims=True)
    spread = maps.max(axis=positions, keepdims=True) - least
    shades = (maps - least) / np.where(spread > 0, spread, 1)
    if shades.ndim == 3:
        wider = -(-NARROWEST // shades.shape[2])
        stripes = shades[:, :, None].repeat(STRIPE, axis=2).repeat(wider, axis=3)
        return grid(stripes, columns=1, enlarge=False, gap=1)
    return grid(pictures_of(shades), columns=int(np.ceil(np.sqrt(len(shades)))))


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
