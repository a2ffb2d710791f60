"""Biases shared over positions in the same ways as kernels.

Each is a tiled bias: ``channel`` has tile 1, ``position`` has a tile as large as its layer, and
position j uses bias ``j % tile`` (*Deep Learning*, section 9.5, on biases).
"""

from __future__ import annotations

import math

from convae.engine import Array, array_module, compiled_passes, rows

SHARINGS = ("channel", "tiled", "position", "none")


def bias_shape(
    sharing: str, channels: int, tile: tuple[int, ...], size: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Shape of the bias of one side of a layer.

    Parameters
    ----------
    sharing : {"channel", "tiled", "position", "none"}
        How the bias is shared over positions.
    channels : int
        Channels of that side.
    tile, size : tuple of int
        Its tile and its positions, for each axis.

    Returns
    -------
    tuple of int or None
        ``(channels,)``, ``(channels, *tile)``, ``(channels, *size)``, or None without a bias.
    """
    return {
        "channel": (channels,),
        "tiled": (channels, *(min(t, n) for t, n in zip(tile, size, strict=True))),
        "position": (channels, *size),
        "none": None,
    }[sharing]


def add_bias(Z: Array, b: Array | None) -> Array:
    """Add a bias to a batch, in place.

    Parameters
    ----------
    Z : (N, C, *size) ndarray
        Overwritten.
    b : (C,) or (C, *tile) ndarray or None
        The bias.

    Returns
    -------
    ndarray
        The array Z.
    """
    if b is None:
        return Z
    shown = rows(Z)
    if shown is not None and b.ndim == 1:
        compiled_passes().add_and_bend(*shown, b, Z.dtype.type(1))
        return Z
    size = Z.shape[2:]
    if b.ndim == 1:
        b = b.reshape(-1, *(1 for _ in size))
    for axis, (positions, tile) in enumerate(zip(size, b.shape[1:], strict=True), start=1):
        if 1 < tile < positions:
            turns = array_module(b).arange(positions) % tile
            b = b.take(turns, axis=axis)
    Z += b
    return Z


def bias_gradient(G: Array, shape: tuple[int, ...]) -> Array:
    """Sum a gradient over the examples and over the positions that share a bias.

    Parameters
    ----------
    G : (N, C, *size) ndarray
        Gradient at the place where the bias was added.
    shape : tuple of int
        Shape of the bias, ``(C,)`` or ``(C, *tile)``.

    Returns
    -------
    ndarray
        The gradient of the bias.
    """
    xp = array_module(G)
    sums = xp.promote_types(G.dtype, "float32")  # never shorter
    if len(shape) == 1:
        shown = rows(G)
        if shown is not None:
            return compiled_passes().channel_sums(*shown).astype(G.dtype)
        return G.sum(axis=(0, *range(2, G.ndim)), dtype=sums)
    total = G.sum(axis=0, dtype=sums)
    for axis, tile in enumerate(shape[1:], start=1):
        positions = total.shape[axis]
        repeats = math.ceil(positions / tile)
        widths = [(0, 0)] * total.ndim
        widths[axis] = (0, repeats * tile - positions)
        whole = xp.pad(total, widths)
        total = whole.reshape(*whole.shape[:axis], repeats, tile, *whole.shape[axis + 1 :])
        total = total.sum(axis=axis)
    return total
