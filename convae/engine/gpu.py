"""The CuPy backend: `gemm` on the whole batch at once, or kernels of ours where they are asked for.

Imported only when a CuPy array arrives. Scratch memory comes from CuPy's pool. Arrays of two bytes
an element are computed in float32: what is stored is short, sums are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import cupy
import numpy as np

from convae.engine import cuda, gemm
from convae.engine.arrays import Array
from convae.engine.geometry import Geometry


def scratch(name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
    """Take memory from CuPy's pool; its contents are arbitrary.

    Parameters
    ----------
    name : str
        What it is for; the pool needs no name.
    shape : tuple of int
        Shape of the array.
    dtype : numpy.dtype
        Type of its elements.

    Returns
    -------
    cupy.ndarray
        A C-contiguous array.
    """
    return cupy.empty(shape, dtype)


_OWN_KERNELS = ContextVar("own kernels", default=False)


@contextmanager
def own_kernels() -> Iterator[None]:
    """Compute with `convae.engine.cuda` instead of cuBLAS, which no graph can record.

    Yields
    ------
    None
    """
    token = _OWN_KERNELS.set(True)
    try:
        yield
    finally:
        _OWN_KERNELS.reset(token)


def _wide(array: Array) -> Array:
    """Show an array in float32 at least, in which sums are computed."""
    return array.astype(cupy.promote_types(array.dtype, np.float32), copy=False)


def c(K: Array, V: Array, geometry: Geometry) -> Array:
    """Strided convolution; see `convae.engine.cpu.c`.

    Parameters
    ----------
    K : (O, [*tile,] C/groups, *kernel) ndarray
        The kernel.
    V : (C, *size, N) ndarray
        The input.
    geometry : Geometry
        The resolved geometry.

    Returns
    -------
    (O, *output, N) ndarray
        Z.
    """
    if _OWN_KERNELS.get():
        return cuda.c(K, V, geometry)
    return gemm.c(cupy, _wide(K), _wide(V), geometry, scratch).astype(V.dtype, copy=False)


def h(K: Array, G: Array, geometry: Geometry) -> Array:
    """Transposed convolution; see `convae.engine.cpu.h`.

    Parameters
    ----------
    K : (O, [*tile,] C/groups, *kernel) ndarray
        The kernel.
    G : (O, *output, N) ndarray
        What lies on the output side.
    geometry : Geometry
        The resolved geometry.

    Returns
    -------
    (C, *size, N) ndarray
        V'.
    """
    if _OWN_KERNELS.get():
        return cuda.h(K, G, geometry)
    return gemm.h(cupy, _wide(K), _wide(G), geometry, scratch).astype(G.dtype, copy=False)


def g(G: Array, V: Array, K_shape: tuple[int, ...], geometry: Geometry) -> Array:
    """Gradient of the kernel; see `convae.engine.cpu.g`.

    Parameters
    ----------
    G : (O, *output, N) ndarray
        What lies on the output side.
    V : (C, *size, N) ndarray
        What lies on the input side.
    K_shape : tuple of int
        Shape of the result.
    geometry : Geometry
        The resolved geometry.

    Returns
    -------
    ndarray
        dK of the shape K_shape, in float32 at least.
    """
    if _OWN_KERNELS.get():
        return cuda.g(G, V, K_shape, geometry)
    return gemm.g(cupy, _wide(G), _wide(V), K_shape, geometry, scratch)
