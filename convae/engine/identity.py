"""The trilinear identity: the one check that certifies c, h and g together."""

from __future__ import annotations

from math import inf, isfinite, sqrt
from typing import Any

from convae.engine.arrays import Array
from convae.engine.backend import Backend
from convae.engine.geometry import Geometry
from convae.engine.operations import c, g, h


def trilinear_error(K: Array, V: Array, G: Array, **geometry: Any) -> float:
    """Measure how far the three operations are from being one trilinear form.

    In exact arithmetic ``<c(K, V), G> = <V, h(K, G)> = <K, g(G, V)>``. The differences are divided
    by ``|c(K, V)| |G|``, a product of norms that does not cancel as the inner products may.

    Parameters
    ----------
    K : (O, [*tile,] C/groups, *kernel) ndarray
        A kernel.
    V : (N, C, *size) ndarray
        An input.
    G : (N, O, *output) ndarray
        A weight for every output.
    **geometry
        stride, padding, dilation and groups, as in `c`.

    Returns
    -------
    float
        The larger of the two relative differences, of the order of the dtype's rounding error;
        infinity if anything is NaN, or if c(K, V) vanishes although no argument does.

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
    """Measure the same of one backend's operations; K, V and G as in `trilinear_error`."""
    Z, R = backend.c(K, V, geometry), backend.h(K, G, geometry)
    return _difference(K, V, G, Z, R, backend.g(G, V, K.shape, geometry))


def _difference(K: Array, V: Array, G: Array, Z: Array, R: Array, dK: Array) -> float:
    """Compare the three inner products, relative to the norms; NaN is an infinite difference."""
    scale = sqrt(float((Z * Z).sum()) * float((G * G).sum()))
    if scale == 0:  # c(K, V) vanishes: right only if an argument does
        return 0.0 if any(not bool(array.any()) for array in (K, V, G)) else inf
    form = float((Z * G).sum())
    errors = abs(form - float((V * R).sum())), abs(form - float((K * dK).sum()))
    return max(errors) / scale if all(isfinite(error) for error in errors) else inf
