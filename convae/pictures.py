"""Arrays as pictures: reconstructions below their originals, and filters in a grid."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from convae.engine import Array, to_numpy

SMALLEST_SIDE = 48
"""Images with fewer pixels a side are enlarged by a whole factor, in pixels of the picture."""

GAP = 2
"""Pixels between two images of a grid, before enlargement."""

MOST_FILTERS = 256
"""Filters in one picture, at most."""


def grid(images: np.ndarray[Any, Any], columns: int) -> np.ndarray[Any, Any]:
    """Lay images out in rows.

    Parameters
    ----------
    images : (N, C, H, W) ndarray
        Values in [0, 1], cut off outside; 1 or 3 channels.
    columns : int
        Images in a row.

    Returns
    -------
    (rows, columns, 3) ndarray of uint8
        The picture, on white.
    """
    count, _, height, width = images.shape
    rows = -(-count // columns)
    levels = np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)
    canvas = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for index, image in enumerate(levels):
        top, left = (n * (side + GAP) for n, side in zip(divmod(index, columns), (height, width)))  # noqa: B905
        canvas[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    factor = max(1, -(-SMALLEST_SIDE // max(height, width)))
    return canvas.repeat(factor, axis=0).repeat(factor, axis=1)


def reconstruction_grid(x: Array, R: Array) -> np.ndarray[Any, Any]:
    """Show originals in the upper row and their reconstructions below.

    Parameters
    ----------
    x, R : (N, C, H, W) ndarray
        Images and reconstructions in [0, 1].

    Returns
    -------
    (rows, columns, 3) ndarray of uint8
        The picture.
    """
    return grid(np.concatenate([to_numpy(x), to_numpy(R)]), columns=len(x))


def filter_grid(K: Array, axes: int) -> np.ndarray[Any, Any]:
    """Show a layer's filters, each stretched to its own range around mid-grey.

    Filters of three channels are shown in colour, others as the mean over their channels; of a
    tiled or local kernel each tile position is a picture of its own. One-dimensional filters are
    drawn as stripes, of three-dimensional ones the middle slice is drawn.

    Parameters
    ----------
    K : (O, [*tile,] C, *kernel) ndarray
        The kernel.
    axes : int
        Number of its spatial axes.

    Returns
    -------
    (rows, columns, 3) ndarray of uint8
        The picture.
    """
    kernel = to_numpy(K).astype(np.float64)
    kernel = kernel.reshape(-1, *kernel.shape[kernel.ndim - axes - 1 :])
    if axes == 1:
        kernel = kernel[:, :, None]
    if axes == 3:
        kernel = kernel[:, :, kernel.shape[2] // 2]
    if kernel.shape[1] != 3:
        kernel = kernel.mean(axis=1, keepdims=True)
    kernel = kernel[:MOST_FILTERS]
    largest = np.abs(kernel).max(axis=(1, 2, 3), keepdims=True)
    shades = 0.5 + 0.5 * kernel / np.where(largest > 0, largest, 1)
    return grid(shades, columns=int(np.ceil(np.sqrt(len(shades)))))


def png(picture: np.ndarray[Any, Any]) -> bytes:
    """Encode a picture.

    Parameters
    ----------
    picture : (rows, columns, 3) ndarray of uint8
        The picture.

    Returns
    -------
    bytes
        A PNG file.
    """
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()
