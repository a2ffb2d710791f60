"""A thread pool for chunks of a batch, and buffers that each thread keeps between calls.

NumPy, BLAS and compiled code release the GIL, so threads suffice. BLAS is limited to one thread
while the pool is working. How a batch is split, and therefore the result, depends on the problem
only, not on the number of threads.
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
"""Multiply-accumulates that make a chunk worth handing to a thread."""

SMALLEST_CHUNK, LARGEST_CHUNK, FEWEST_CHUNKS = 32, 64, 4
"""Shortest and longest chunk, in examples; fewest chunks, unless they would be too short."""

BLOCK_BYTES = 128
"""A block: the bytes of examples that compiled code processes at a time."""

ALIGNMENT = 64
"""Bytes of a cache line; vector loads are fastest when aligned to it."""

_local = threading.local()


def scratch(name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
    """Return an uninitialised buffer that this thread reuses at the next call with its name."""
    if not hasattr(_local, "buffers"):
        _local.buffers = {}
    buffers: dict[str, np.ndarray[Any, Any]] = _local.buffers
    size = prod(shape) * dtype.itemsize
    if name not in buffers or buffers[name].nbytes < size:
        buffers[name] = np.frombuffer(_aligned(size), np.uint8)
    return buffers[name][:size].view(dtype).reshape(shape)


def empty(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
    """Allocate an uninitialised array for a result; in pool threads, from recycled memory."""
    # Fresh memory costs the operating system about as much time as filling it does, so a pool
    # thread keeps the memory it has allocated and reuses it when the last view of it is gone.
    if not getattr(_local, "busy", False):
        return np.empty(shape, dtype)
    if not hasattr(_local, "free"):
        _local.free = defaultdict(list)
    size = prod(shape) * dtype.itemsize
    room = 1 << (size - 1).bit_length()  # few sizes, so that other models can reuse them
    free: list[memoryview] = _local.free[room]
    memory = free.pop() if free else _aligned(room)
    lent = np.frombuffer(memory, np.uint8)  # every view of it keeps this array alive
    weakref.finalize(lent, free.append, memory)
    return lent[:size].view(dtype).reshape(shape)


def _aligned(size: int) -> memoryview:
    memory = np.empty(size + ALIGNMENT, np.uint8)
    offset = -memory.ctypes.data % ALIGNMENT
    return memory[offset : offset + size].data


def contiguous(array: Array) -> Array:
    """Return an array in C order, copying only if necessary."""
    if array.flags.c_contiguous:
        return array
    copy = empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def divide(examples: int, work: int) -> list[slice]:
    """Split a batch into chunks for threads; `work` is multiply-accumulates per example."""
    length = min(CHUNK_WORK // max(work, 1), -(-examples // FEWEST_CHUNKS), LARGEST_CHUNK)
    return cut(examples, max(length // SMALLEST_CHUNK, 1) * SMALLEST_CHUNK)


def cut(examples: int, length: int) -> list[slice]:
    """Split a batch into chunks of a given length; the last may be shorter."""
    return [slice(i, min(i + length, examples)) for i in range(0, examples, length)]


def spread(examples: int) -> list[slice]:
    """Split the batch of a single operation, unless called from a pool thread."""
    if getattr(_local, "busy", False):
        return [slice(0, examples)]
    return cut(examples, LARGEST_CHUNK if examples > LARGEST_CHUNK else SMALLEST_CHUNK)


def cores() -> int:
    """Count the CPU cores available to this process."""
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
    """Call a function on each chunk in parallel, in a pool thread serially; results in order."""
    if len(chunks) == 1 or getattr(_local, "busy", False):
        return [function(chunk) for chunk in chunks]

    def in_pool(chunk: slice) -> Result:
        _local.busy = True
        return function(chunk)

    with _blas().limit(limits=1, user_api="blas"):
        return list(_pool().map(in_pool, chunks))
