"""The NumPy backend: `gemm` over chunks of the batch, on a pool of threads.

A chunk is small enough for its columns to stay in the processor's cache. Chunks depend on the
problem alone and partial sums are added in their order, so that results do not depend on the
number of threads. NumPy and its BLAS release the interpreter's lock; BLAS itself is held to one
thread while the pool is at work.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cache
from math import prod
from typing import Any, TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController

from convae.engine import gemm
from convae.engine.arrays import Array
from convae.engine.geometry import Geometry

Result = TypeVar("Result")

COLUMNS_BYTES = 1 << 20
"""Memory that the columns of one chunk may take: about half of a core's second-level cache."""

SMALLEST_CHUNK, LARGEST_CHUNK = 16, 64

_local = threading.local()


def scratch(name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
    """Lend memory that this thread reuses from call to call; its contents are arbitrary.

    Parameters
    ----------
    name : str
        Which of the thread's buffers; one name is in use once at a time.
    shape : tuple of int
        Shape of the array.
    dtype : numpy.dtype
        Type of its elements.

    Returns
    -------
    numpy.ndarray
        A C-contiguous view on the buffer, which grows when it has to.
    """
    buffers: dict[str, np.ndarray[Any, Any]] = _local.__dict__
    size = prod(shape) * dtype.itemsize
    if name not in buffers or buffers[name].nbytes < size:
        buffers[name] = np.empty(size, np.uint8)
    return buffers[name][:size].view(dtype).reshape(shape)


def chunks(geometry: Geometry, channels: int, itemsize: int, examples: int) -> list[slice]:
    """Divide a batch so that the columns of each part stay in cache.

    Parameters
    ----------
    geometry : Geometry
        The resolved geometry.
    channels : int
        Channels of the input.
    itemsize : int
        Bytes of one element.
    examples : int
        Examples in the batch.

    Returns
    -------
    list of slice
        Consecutive parts of the batch, of equal length but for the last.
    """
    per_example = channels * prod(geometry.kernel) * prod(geometry.extended) * itemsize
    length = min(max(COLUMNS_BYTES // per_example, SMALLEST_CHUNK), LARGEST_CHUNK)
    return [slice(i, min(i + length, examples)) for i in range(0, examples, length)]


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="convae")


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def single_threaded_blas() -> AbstractContextManager[Any]:
    """Hold BLAS to one thread for the length of a ``with`` block.

    Returns
    -------
    context manager
        Restores the number of threads at the end.
    """
    limit: AbstractContextManager[Any] = _blas().limit(limits=1, user_api="blas")
    return limit


def over_chunks(work: Callable[[slice], Result], parts: list[slice]) -> list[Result]:
    """Do the work on each part of the batch, in parallel.

    Parameters
    ----------
    work : callable
        Takes the slice of the batch.
    parts : list of slice
        From `chunks`.

    Returns
    -------
    list
        The results in the order of the parts.
    """
    if len(parts) == 1:
        return [work(parts[0])]
    with single_threaded_blas():
        return list(_pool().map(work, parts))


def c(K: Array, V: Array, geometry: Geometry) -> Array:
    """Strided convolution.

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
    parts = chunks(geometry, V.shape[0], V.itemsize, V.shape[-1])
    if len(parts) == 1:
        return gemm.c(np, K, V, geometry, scratch)
    Z = np.empty((K.shape[0], *geometry.output, V.shape[-1]), V.dtype)

    def part(examples: slice) -> None:
        Z[..., examples] = gemm.c(np, K, V[..., examples], geometry, scratch)

    over_chunks(part, parts)
    return Z


def h(K: Array, G: Array, geometry: Geometry) -> Array:
    """Transposed convolution.

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
    C = K.shape[-geometry.axes - 1] * geometry.groups
    parts = chunks(geometry, C, G.itemsize, G.shape[-1])
    if len(parts) == 1:
        return gemm.h(np, K, G, geometry, scratch)
    V = np.empty((C, *geometry.size, G.shape[-1]), G.dtype)

    def part(examples: slice) -> None:
        V[..., examples] = gemm.h(np, K, G[..., examples], geometry, scratch)

    over_chunks(part, parts)
    return V


def g(G: Array, V: Array, K_shape: tuple[int, ...], geometry: Geometry) -> Array:
    """Gradient of the kernel.

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
        dK of the shape K_shape, the chunks' sums added in their order.
    """

    def part(examples: slice) -> Array:
        return gemm.g(np, G[..., examples], V[..., examples], K_shape, geometry, scratch)

    parts = over_chunks(part, chunks(geometry, V.shape[0], V.itemsize, V.shape[-1]))
    dK = parts[0]
    for partial in parts[1:]:
        dK += partial
    return dK
