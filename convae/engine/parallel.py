"""Work on parts of a batch at the same time, and memory that a thread keeps between calls.

NumPy and its BLAS release the interpreter's lock, so threads are enough. While the pool is at
work BLAS is held to one thread. How a batch is divided depends on the problem alone, never on the
number of threads, and so do the results.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from math import prod
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController

from convae.engine.arrays import Array

Result = TypeVar("Result")

WORK_OF_A_PART = 400_000_000
"""Multiply-accumulates that make it worth while to hand a part of a batch to a thread."""

SMALLEST_PART, LARGEST_PART, FEWEST_PARTS = 32, 64, 4
"""Examples of a part, whole multiples of the smallest; and parts, while they are not smaller."""

BLOCK_BYTES = 128
"""Examples that compiled code works on at a time, by their bytes; the parts are whole blocks."""

ALIGNMENT = 64
"""Bytes of a cache line, at whose beginnings vectors are best read."""

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
    if not hasattr(_local, "buffers"):
        _local.buffers = {}
    buffers: dict[str, np.ndarray[Any, Any]] = _local.buffers
    size = prod(shape) * dtype.itemsize
    if name not in buffers or buffers[name].nbytes < size:
        buffers[name] = np.frombuffer(_aligned(size), np.uint8)
    return buffers[name][:size].view(dtype).reshape(shape)


def empty(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
    """Make an array for a result; in the pool's threads out of memory that is used again.

    Fresh memory costs the operating system about as much time as filling it does. A thread of the
    pool therefore keeps what it has once taken, and lends it again when the last view on it is
    gone.

    Parameters
    ----------
    shape : tuple of int
        Shape of the array.
    dtype : numpy.dtype
        Type of its elements.

    Returns
    -------
    numpy.ndarray
        A C-contiguous array of arbitrary contents.
    """
    if not getattr(_local, "busy", False):
        return np.empty(shape, dtype)
    if not hasattr(_local, "free"):
        _local.free = defaultdict(list)
    size = prod(shape) * dtype.itemsize
    room = 1 << (size - 1).bit_length()  # few sizes, so that other models use them too
    free: list[memoryview] = _local.free[room]
    memory = free.pop() if free else _aligned(room)
    lent = np.frombuffer(memory, np.uint8)  # all views on it keep this array alive
    weakref.finalize(lent, free.append, memory)
    return lent[:size].view(dtype).reshape(shape)


def _aligned(size: int) -> memoryview:
    memory = np.empty(size + ALIGNMENT, np.uint8)
    offset = -memory.ctypes.data % ALIGNMENT
    return memory[offset : offset + size].data


def contiguous(array: Array) -> Array:
    """Copy an array into C order, unless it lies so already.

    Parameters
    ----------
    array : numpy.ndarray
        Any array.

    Returns
    -------
    numpy.ndarray
        The array, or a copy, made by `empty`.
    """
    if array.flags.c_contiguous:
        return array
    copy = empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def parts_of_batch(xp: ModuleType, examples: int, work: int) -> list[slice]:
    """Divide a batch into parts that threads can work on; on a GPU it stays whole.

    Parameters
    ----------
    xp : module
        ``numpy`` or ``cupy``.
    examples : int
        Examples in the batch.
    work : int
        Multiply-accumulates that one example takes.

    Returns
    -------
    list of slice
        Consecutive parts of the batch, of equal length but for the last.
    """
    if xp is not np:
        return [slice(0, examples)]
    length = min(WORK_OF_A_PART // max(work, 1), -(-examples // FEWEST_PARTS), LARGEST_PART)
    return cut(examples, max(length // SMALLEST_PART, 1) * SMALLEST_PART)


def cut(examples: int, length: int) -> list[slice]:
    """Divide a batch into parts of a given length.

    Parameters
    ----------
    examples, length : int
        Examples in the batch, and in each part but the last.

    Returns
    -------
    list of slice
        The parts, in order.
    """
    return [slice(i, min(i + length, examples)) for i in range(0, examples, length)]


def spread(examples: int) -> list[slice]:
    """Divide the batch of a single operation.

    Parameters
    ----------
    examples : int
        Examples in the batch.

    Returns
    -------
    list of slice
        One part in a thread of the pool, where others are at work already; elsewhere at least two,
        if there are enough examples.
    """
    if getattr(_local, "busy", False):
        return [slice(0, examples)]
    return cut(examples, LARGEST_PART if examples > LARGEST_PART else SMALLEST_PART)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="convae")


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def over(work: Callable[[slice], Result], parts: list[slice]) -> list[Result]:
    """Do the work on each part, in parallel where that is possible.

    A call from within such work is done in its own thread.

    Parameters
    ----------
    work : callable
        Takes the slice of the batch.
    parts : list of slice
        The parts.

    Returns
    -------
    list
        The results in the order of the parts.
    """
    if len(parts) == 1 or getattr(_local, "busy", False):
        return [work(part) for part in parts]

    def in_pool(part: slice) -> Result:
        _local.busy = True
        return work(part)

    with _blas().limit(limits=1, user_api="blas"):
        return list(_pool().map(in_pool, parts))
