"""Compiling our kernels, and launching them on arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from typing import Any

import cupy
import numpy as np

from convae.engine.gpu import kernels
from convae.engine.program import Problem
from convae.engine.program.arithmetic import Arrays, Run


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


def launch(
    function: Any, blocks: int | tuple[int, ...], *arguments: Any, shared_bytes: int = 0
) -> Run:
    """Return what launches a kernel on these arguments, which it keeps.

    `shared_bytes` is the shared memory that the kernel divides itself.
    """
    grid = blocks if isinstance(blocks, tuple) else (blocks,)
    if shared_bytes:
        function.max_dynamic_shared_size_bytes = shared_bytes
    return lambda: function(grid, (kernels.THREADS,), arguments, shared_mem=shared_bytes)


def resident(function: Any, shared_bytes: int) -> int:
    """Return how many blocks of a kernel a multiprocessor runs at a time, at least one."""
    function.max_dynamic_shared_size_bytes = shared_bytes
    blocks = cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor(
        function.kernel.ptr, kernels.THREADS, shared_bytes
    )
    return max(1, int(blocks))


def in_order(*runs: Callable[[], None]) -> Run:
    """Return what does one after the other."""

    def run() -> None:
        for each in runs:
            each()

    return run


def pointer(array: Any) -> Any:
    """Pass an array, or a null pointer."""
    return np.intp(0) if array is None else array


def with_loss(
    problem: Problem,
    arrays: Arrays,
    module: Any,
    name: str,
    blocks: int,
    given: tuple[Any, ...],
    sizes: tuple[Any, ...],
    shared_bytes: int = 0,
) -> Run:
    """Return what launches a kernel with what stands behind its sums, and adds up the loss.

    The kernel takes arrays, what stands behind them as `finish` of `convolution.cu` reads it, and
    sizes; `total`, of the same module, adds up what its blocks leave of the loss, if there is one.
    """
    has_loss, count = problem.operation == "error", problem["count"] or 1
    losses = cupy.empty(blocks, np.float64) if has_loss else None
    optional = [pointer(arrays.get(role)) for role in ("bias", "extra", "H", "target")]
    factor = np.float32((problem["scale"] or 1) / count)
    arguments = (*given, *optional, factor, pointer(losses), *sizes)
    function = module.get_function(name)
    run = launch(function, blocks, *arguments, shared_bytes=shared_bytes)
    if losses is None:
        return run
    numbers = np.int32(blocks), np.float64(1 / count)
    total = module.get_function("total")
    return in_order(run, launch(total, 1, losses, arrays["J"], *numbers))


def timed(calls: Sequence[Run]) -> float:
    """Time calls, one after the other, by CUDA's events; seconds of all."""
    begun, ended = (cupy.cuda.Event() for _ in range(2))
    begun.record()
    for call in calls:
        call()
    ended.record()
    ended.synchronize()
    return float(cupy.cuda.get_elapsed_time(begun, ended)) / 1e3
