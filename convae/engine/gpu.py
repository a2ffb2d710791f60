"""The CuPy backend: `gemm` on the whole batch at once.

Imported only when a CuPy array arrives. Scratch memory comes from CuPy's pool.
"""

from __future__ import annotations

import cupy
import numpy as np

from convae.engine import gemm
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
    return gemm.c(cupy, K, V, geometry, scratch)


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
    return gemm.h(cupy, K, G, geometry, scratch)


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
        dK of the shape K_shape.
    """
    return gemm.g(cupy, G, V, K_shape, geometry, scratch)
