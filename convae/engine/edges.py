"""Padding with other values than zeros: c, h and g of any geometry, on a backend of zeros only.

Padding by reflection, replication or periodic continuation is linear: ``P V`` copies positions of
V. So the convolution of a padded input is ``c(K, P V)``, and its adjoints are ``P' h(K, G)``, where
P' adds each copy to the position that it came from, and ``g(G, P V)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from convae.engine.arrays import Array, array_module
from convae.engine.geometry import Geometry

if TYPE_CHECKING:
    from convae.engine.backend import Backend


def c(backend: Backend, K: Array, V: Array, geometry: Geometry) -> Array:
    """Strided convolution: V (N, C, *size) -> (N, O, *output)."""
    return backend.c(K, _extended(backend, V, geometry), geometry.inner)


def h(backend: Backend, K: Array, G: Array, geometry: Geometry) -> Array:
    """Transposed convolution: G (N, O, *output) -> (N, C, *size)."""
    W = backend.h(K, G, geometry.inner)
    return W if geometry.padding_mode == "zeros" else backend.fold(W, geometry)


def g(backend: Backend, G: Array, V: Array, K_shape: tuple[int, ...], geometry: Geometry) -> Array:
    """Kernel gradient: G (N, O, *output), V (N, C, *size) -> K_shape."""
    return backend.g(G, _extended(backend, V, geometry), K_shape, geometry.inner)


def _extended(backend: Backend, V: Array, geometry: Geometry) -> Array:
    """Pad V, unless the backend pads it by zeros."""
    return V if geometry.padding_mode == "zeros" else backend.extend(V, geometry)


def extend(V: Array, geometry: Geometry) -> Array:
    """Pad V (N, C, *size) by copies of its positions."""
    xp = array_module(V)
    order = sorted(range(V.ndim), key=lambda axis: -V.strides[axis])  # copies keep the memory order
    W = V.transpose(order)
    for axis, where in enumerate(sources(geometry), start=2):
        W = xp.take(W, xp.asarray(where), axis=order.index(axis))
    return W.transpose([order.index(axis) for axis in range(V.ndim)])


def fold(W: Array, geometry: Geometry) -> Array:
    """Add what lies in the padding of W (N, C, *padded) to where it came from: -> (N, C, *size)."""
    sizes = zip(sources(geometry), geometry.padding, geometry.size, strict=True)
    for axis, (where, (before, _), size) in enumerate(sizes, start=2):

        def at(place: int | slice, axis: int = axis) -> tuple[Any, ...]:
            return (*(slice(None),) * axis, place)

        folded = W[at(slice(before, before + size))].copy(order="K")
        for place, source in enumerate(where.tolist()):
            if not before <= place < before + size:
                folded[at(source)] += W[at(place)]
        W = folded
    return W


def sources(geometry: Geometry) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
    """For each axis, which position of the input every position of the padded one copies."""
    found = []
    for size, (before, after) in zip(geometry.size, geometry.padding, strict=True):
        y = np.arange(-before, size + after)
        if geometry.padding_mode == "replicate":
            y = y.clip(0, size - 1)
        elif geometry.padding_mode == "circular":
            y %= size
        else:  # reflect: the edge itself is not repeated
            y = np.abs(y)
            y = np.where(y < size, y, 2 * (size - 1) - y)
        found.append(y)
    return found
