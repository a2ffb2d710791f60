"""Chunks of a batch computed in parallel, and buffers that a thread keeps between calls.

NumPy, its BLAS and compiled code release the interpreter's lock, so threads are enough. While the
pool works, BLAS is limited to one thread. How a batch is divided depends on the problem alone,
never on the number of threads, and so do the results.
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
from typing import Any, TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController

from convae.engine.arrays import Array

Result = TypeVar("Result")

CHUNK_WORK = 400_000_000
"""Multiply-accumulates from which on a chunk is worth handing to a thread."""

SMALLEST_CHUNK, LARGEST_CHUNK, FEWEST_CHUNKS = 32, 64, 4
"""Examples of a chunk, a multiple of the smallest; and chunks, unless they become smaller."""

BLOCK_BYTES = 128
"""A block: so many bytes of examples, on which compiled code works at a time."""

ALIGNMENT = 64
"""Bytes of a cache line; vectors are read fastest from its beginning."""

_local = threading.local()


def scratch(name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
    """Lend uninitialised memory that this thread reuses; one name is in use once at a time."""
    if not hasattr(_local, "buffers"):
        _local.buffers = {}
    buffers: dict[str, np.ndarray[Any, Any]] = _local.buffers
    size = prod(shape) * dtype.itemsize
    if name not in buffers or buffers[name].nbytes < size:
        buffers[name] = np.frombuffer(_aligned(size), np.uint8)
    return buffers[name][:size].view(dtype).reshape(shape)


def empty(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
    """Make an uninitialised array for a result; in the pool's threads from recycled memory.

    Fresh memory costs the operating system about as much time as filling it does. A thread of the
    pool therefore keeps what it has taken, and reuses it when the last view on it is gone.
    """
    if not getattr(_local, "busy", False):
        return np.empty(shape, dtype)
    if not hasattr(_local, "free"):
        _local.free = defaultdict(list)
    size = prod(shape) * dtype.itemsize
    room = 1 << (size - 1).bit_length()  # few sizes, so that other models reuse them
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
    """Copy an array into C order, unless it already is."""
    if array.flags.c_contiguous:
        return array
    copy = empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def divide(examples: int, work: int) -> list[slice]:
    """Divide a batch into chunks for threads; one example takes `work` multiply-accumulates."""
    length = min(CHUNK_WORK // max(work, 1), -(-examples // FEWEST_CHUNKS), LARGEST_CHUNK)
    return cut(examples, max(length // SMALLEST_CHUNK, 1) * SMALLEST_CHUNK)


def cut(examples: int, length: int) -> list[slice]:
    """Divide a batch into chunks of a given length, the last of which may be shorter."""
    return [slice(i, min(i + length, examples)) for i in range(0, examples, length)]


def spread(examples: int) -> list[slice]:
    """Divide the batch of a single operation, unless this thread is one of the pool's."""
    if getattr(_local, "busy", False):
        return [slice(0, examples)]
    return cut(examples, LARGEST_CHUNK if examples > LARGEST_CHUNK else SMALLEST_CHUNK)


def cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), thread_name_prefix="convae")


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def map_chunks(function: Callable[[slice], Result], chunks: list[slice]) -> list[Result]:
    """Call a function on each chunk, in parallel; results in order.

    A call from one of the pool's threads is computed in that thread.
    """
    if len(chunks) == 1 or getattr(_local, "busy", False):
        return [function(chunk) for chunk in chunks]

    def in_pool(chunk: slice) -> Result:
        _local.busy = True
        return function(chunk)

    with _blas().limit(limits=1, user_api="blas"):
        return list(_pool().map(in_pool, chunks))
