"""The trilinear identity, a single check of c, h and g together."""

from __future__ import annotations

from math import inf, isfinite, isnan, sqrt
from typing import Any

from convae.engine import edges
from convae.engine.arrays import Array
from convae.engine.backend import Backend, wide
from convae.engine.geometry import Geometry
from convae.engine.operations import c, g, h

ROUNDING = 1e-5
"""Largest relative value that counts as vanishing."""


def trilinear_error(K: Array, V: Array, G: Array, **geometry: Any) -> float:
    """Measure the relative violation of the trilinear identity by `c`, `h` and `g`.

    In exact arithmetic ``<c(K, V), G> = <V, h(K, G)> = <K, g(G, V)>``. Differences are relative to
    ``|c(K, V)| |G|``, a product of norms, which unlike the inner products is free of cancellation.

    Parameters
    ----------
    K : (O, [*tile,] C/groups, *kernel) ndarray
        A kernel.
    V : (N, C, *size) ndarray
        An input.
    G : (N, O, *output) ndarray
        An output-side array.
    **geometry
        stride, padding, dilation, groups and padding_mode, as in `c`.

    Returns
    -------
    float
        The larger of the two relative differences, on the order of the dtype's rounding error;
        infinity if one is not finite, or if c(K, V) is zero although no argument is.

    Raises
    ------
    TypeError, ValueError
        As in `c`, `h` and `g`.
    """
    axes = V.ndim - 2
    Z = c(K, V, **geometry)
    R = h(K, G, size=V.shape[2:], **geometry)
    tile = K.shape[1 : K.ndim - axes - 1] or None
    dK = g(G, V, kernel=K.shape[K.ndim - axes :], tile=tile, **geometry)
    return _difference(K, V, G, Z, R, dK)


def backend_error(backend: Backend, K: Array, V: Array, G: Array, geometry: Geometry) -> float:
    """Measure the same for a backend's operations; K, V and G as in `trilinear_error`."""
    Z, R = edges.c(backend, K, V, geometry), edges.h(backend, K, G, geometry)
    return _difference(K, V, G, Z, R, edges.g(backend, G, V, K.shape, geometry))


def _difference(K: Array, V: Array, G: Array, Z: Array, R: Array, dK: Array) -> float:
    """Compare the three inner products, relative to the norms; a NaN counts as infinite."""
    K, V, G, Z, R, dK = map(wide, (K, V, G, Z, R, dK))
    form = float((Z * G).sum())
    error = max(abs(form - float((V * R).sum())), abs(form - float((K * dK).sum())), key=_nan_first)
    scale = _norm(Z) * _norm(G)
    if scale > 0:
        return error / scale if isfinite(error) else inf
    # c(K, V) or G vanishes: right only if the two other forms vanish, too
    return 0.0 if error <= ROUNDING * _norm(K) * _norm(V) * _norm(G) else inf


def _norm(array: Array) -> float:
    return sqrt(float((array * array).sum()))


def _nan_first(error: float) -> float:
    """Order errors so that NaN is the largest."""
    return inf if isnan(error) else error
