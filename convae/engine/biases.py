"""Biases shared over positions in the same ways as kernels.

Each is a tiled bias: ``channel`` has tile 1, ``position`` has a tile as large as its layer, and
position j uses bias ``j % tile`` (*Deep Learning*, section 9.5, on biases).
"""

from __future__ import annotations

import math

from convae.engine.arrays import Array, array_module
from convae.engine.backend import Backend

SHARINGS = ("channel", "tiled", "position", "none")


def bias_shape(
    sharing: str, channels: int, tile: tuple[int, ...], size: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Shape of a bias: (channels,), (channels, *tile), (channels, *size), or None for "none"."""
    return {
        "channel": (channels,),
        "tiled": (channels, *(min(t, n) for t, n in zip(tile, size, strict=True))),
        "position": (channels, *size),
        "none": None,
    }[sharing]


def spread(b: Array | None, size: tuple[int, ...]) -> Array | None:
    """Repeat a tiled bias over all positions: (C, *tile) -> broadcasts to (C, *size)."""
    if b is None or b.ndim == 1:
        return b
    for axis, (positions, tile) in enumerate(zip(size, b.shape[1:], strict=True), start=1):
        if 1 < tile < positions:
            b = b.take(array_module(b).arange(positions) % tile, axis=axis)
    return b


def bias_gradient(backend: Backend, G: Array, shape: tuple[int, ...]) -> Array:
    """Sum a gradient over the examples and over the positions that share a bias.

    G (N, C, *size), the gradient where the bias was added -> shape, (C,) or (C, *tile)
    """
    total = backend.bias_gradient(G, by_position=len(shape) > 1)  # (C, *size) or (C,)
    xp = backend.xp
    for axis, tile in enumerate(shape[1:], start=1):
        positions = total.shape[axis]
        repeats = math.ceil(positions / tile)
        widths = [(0, 0)] * total.ndim
        widths[axis] = (0, repeats * tile - positions)
        whole = xp.pad(total, widths)
        whole = whole.reshape(*whole.shape[:axis], repeats, tile, *whole.shape[axis + 1 :])
        total = whole.sum(axis=axis)
    return total
