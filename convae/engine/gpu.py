"""The CuPy backend: `gemm` on the whole batch at once, or kernels of ours where they are asked for.

Imported only when a CuPy array arrives. Scratch memory comes from CuPy's pool. Arrays of two bytes
an element are computed in float32: what is stored is short, sums are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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


def _in_single(compute: Callable[[Array, Array], Array], A: Array, B: Array) -> Array:
    """Compute in float32 where arrays are stored shorter, and store the result as they are."""
    if A.dtype.itemsize > 2:
        return compute(A, B)
    return compute(A.astype(np.float32), B.astype(np.float32)).astype(A.dtype)


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
    return _in_single(lambda K, V: gemm.c(cupy, K, V, geometry, scratch), K, V)


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
    return _in_single(lambda K, G: gemm.h(cupy, K, G, geometry, scratch), K, G)


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
    dtype = cupy.promote_types(G.dtype, np.float32)  # the result is a sum, too
    G, V = G.astype(dtype, copy=False), V.astype(dtype, copy=False)
    return gemm.g(cupy, G, V, K_shape, geometry, scratch)
