"""Compiling our kernels, and launching them on arrays."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import cupy
import numpy as np

from convae.engine.gpu import kernels
from convae.engine.program.arithmetic import Run


@cache
def compiled(file: str, dtype: str, constants: tuple[tuple[str, object], ...] = ()) -> Any:
    """Compile a file of `kernels` once for each set of constants."""
    options = ("--std=c++17", *(f"--include-path={folder}" for folder in headers()))
    return cupy.RawModule(code=kernels.source(file, dtype, **dict(constants)), options=options)


@cache
def headers() -> tuple[str, ...]:
    """Find CUDA's headers, which types of two bytes need, where a package brings them."""
    try:
        pathfinder = import_module("cuda.pathfinder")
    except ImportError:
        return ()
    found = (pathfinder.find_nvidia_header_directory(part) for part in ("cudart", "cccl"))
    return tuple(folder for folder in found if folder)


def launch(function: Any, blocks: int | tuple[int, ...], *arguments: Any) -> Run:
    """Return what launches a kernel on these arguments, which it keeps."""
    grid = blocks if isinstance(blocks, tuple) else (blocks,)
    return lambda: function(grid, (kernels.THREADS,), arguments)


def in_order(*runs: Callable[[], None]) -> Run:
    """Return what does one after the other."""

    def run() -> None:
        for each in runs:
            each()

    return run


def pointer(array: Any) -> Any:
    """Pass an array, or a null pointer."""
    return np.intp(0) if array is None else array
