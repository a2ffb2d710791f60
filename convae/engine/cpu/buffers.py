"""Buffers that each thread keeps between calls."""

from __future__ import annotations

import os
import threading
import weakref
from math import prod
from typing import Any

import numpy as np

from convae.engine.arrays import Array

ALIGNMENT = 64
"""Bytes of a cache line; vector loads are fastest when aligned to it."""

_own = threading.local()


class _Kept:
    """The memory that a thread keeps: buffers by name, and where they lie."""

    def __init__(self) -> None:
        self.buffers: dict[str, tuple[np.ndarray[Any, Any], int]] = {}


_all_kept: weakref.WeakSet[_Kept] = weakref.WeakSet()
_all_kept_lock = threading.Lock()


def _kept() -> _Kept:
    """Find what this thread keeps."""
    if not hasattr(_own, "kept"):
        _own.kept = _Kept()
        with _all_kept_lock:
            _all_kept.add(_own.kept)
    kept: _Kept = _own.kept
    return kept


def free_memory() -> None:
    """Release the memory that the CPU backend's threads keep for reuse.

    Each thread keeps at most the memory of its largest problem so far.
    """
    with _all_kept_lock:
        for kept in _all_kept:
            kept.buffers.clear()


def scratch(name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
    """Return an uninitialised buffer that this thread reuses at the next call with its name."""
    size = prod(shape) * dtype.itemsize
    return reserved(name, size)[0][:size].view(dtype).reshape(shape)


def reserved(name: str, size: int) -> tuple[Array, int]:
    """Return such a buffer of at least so many bytes, and where it lies.

    Who uses the address has to keep the buffer meanwhile: others may call `free_memory`.
    """
    buffers = _kept().buffers
    found = buffers.get(name)
    if found is None or found[0].nbytes < size:
        buffer = np.frombuffer(_aligned(size), np.uint8)
        buffers[name] = found = buffer, buffer.ctypes.data
    return found


def empty(shape: tuple[int, ...], dtype: Any) -> Array:
    """Return an uninitialised array that begins where a cache line does."""
    size = prod(shape) * np.dtype(dtype).itemsize
    return np.asarray(_aligned(size)).view(dtype).reshape(shape)


def _aligned(size: int) -> memoryview:
    memory = np.empty(size + ALIGNMENT, np.uint8)
    offset = -memory.ctypes.data % ALIGNMENT
    return memory[offset : offset + size].data


def _after_fork() -> None:
    """Forget what the parent's thread kept, and who was about to keep something."""
    global _own, _all_kept_lock
    _own, _all_kept_lock = threading.local(), threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_after_fork)
