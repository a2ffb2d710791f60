"""c, h and g of the whole family by unfolding, divided into tasks for threads.

The columns of `convae.engine.gemm` take as much memory as the input times the kernel's elements. So
the batch is divided into chunks, and where one example is still too large, or examples are few, the
first axis of the output into strips; each is a problem with a geometry of its own. The division
does not depend on the number of threads, and BLAS has one thread, so neither do the bits of a
result. Arrays are channels first, examples last.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod
from typing import NamedTuple

import numpy as np

from convae.engine import gemm
from convae.engine.arrays import Array
from convae.engine.cpu.threads import LARGEST_CHUNK, cut, in_pool, map_tasks, scratch
from convae.engine.geometry import Geometry, spans

COLUMNS_BYTES = 32 << 20
"""Memory that the columns of one task may take; less was measured to be slower."""

TASKS = 4
"""Tasks of a problem that is worth dividing, at least."""

WORTH_DIVIDING = 1 << 21
"""Multiply-accumulates from which on a problem is divided among threads."""


class Task(NamedTuple):
    """A part of a problem: where it is in batch, output, input and tile, and its geometry."""

    examples: slice
    output: slice
    input: slice
    tile: slice
    geometry: Geometry


def tasks(
    geometry: Geometry, channels: int, filters: int, examples: int, itemsize: int
) -> list[Task]:
    """Divide a problem into tasks."""
    columns = channels * prod(geometry.kernel) * prod(geometry.extended) * itemsize
    length = min(max(COLUMNS_BYTES // columns, 1), LARGEST_CHUNK)
    wanted = 1
    if not in_pool() and geometry.macs(channels, filters) * examples >= WORTH_DIVIDING:
        wanted = TASKS
        length = min(length, -(-examples // TASKS))
    chunks = cut(examples, length)
    rows = geometry.output[0] * COLUMNS_BYTES // (columns * min(length, examples))
    few = -(-geometry.output[0] // -(-wanted // len(chunks)))  # rows of a strip for enough tasks
    strips = list(_strips(geometry, max(min(rows, few), 1)))
    return [Task(chunk, *strip) for chunk in chunks for strip in strips]


def _strips(geometry: Geometry, rows: int) -> Iterator[tuple[slice, slice, slice, Geometry]]:
    """Divide the first axis of the output into strips of so many rows, if they read anything."""
    size, output, tile = geometry.size[0], geometry.output[0], geometry.tile[0]
    is_local = tile == output > 1
    step = rows if is_local else -(-rows // tile) * tile  # whole tiles, so that j % tile stays
    if step >= output:
        yield slice(None), slice(None), slice(None), geometry
        return
    stride, before = geometry.stride[0], geometry.padding[0][0]
    span = spans(geometry.kernel, geometry.dilation)[0]
    for first in range(0, output, step):
        last = min(first + step, output)
        begin, end = first * stride - before, (last - 1) * stride - before + span
        low, high = max(begin, 0), min(end, size)
        if low >= high:  # the strip only reads padding: its output is 0, its gradient too
            continue
        turns = slice(first, last) if is_local else slice(0, min(tile, last - first))
        part = replace(
            geometry,
            size=(high - low, *geometry.size[1:]),
            padding=((low - begin, end - high), *geometry.padding[1:]),
            tile=(turns.stop - turns.start, *geometry.tile[1:]),
        )
        yield slice(first, last), slice(low, high), turns, part


def _kernel(K: Array, task: Task) -> Array:
    """Select the kernels of a task."""
    return K[:, task.tile] if K.ndim > 2 + task.geometry.axes else K


def c(K: Array, V: Array, geometry: Geometry) -> Array:
    """Strided convolution.

    K (O, [*tile,] C/groups, *kernel); V (C, *size, N) -> (O, *output, N)
    """
    found = tasks(geometry, V.shape[0], K.shape[0], V.shape[-1], V.itemsize)

    def compute(t: Task) -> Array:
        return gemm.c(np, _kernel(K, t), V[:, t.input, ..., t.examples], t.geometry, scratch)

    if len(found) == 1 and found[0].geometry is geometry:
        return map_tasks(compute, found)[0]
    Z = np.zeros((K.shape[0], *geometry.output, V.shape[-1]), V.dtype)

    def place(t: Task) -> None:
        Z[:, t.output, ..., t.examples] = compute(t)

    map_tasks(place, found)
    return Z


def h(K: Array, G: Array, geometry: Geometry) -> Array:
    """Transposed convolution; strips overlap in the input, and are added in order.

    K (O, [*tile,] C/groups, *kernel); G (O, *output, N) -> (C, *size, N)
    """
    C = K.shape[-geometry.axes - 1] * geometry.groups
    found = tasks(geometry, C, K.shape[0], G.shape[-1], G.itemsize)

    def compute(t: Task) -> Array:
        return gemm.h(np, _kernel(K, t), G[:, t.output, ..., t.examples], t.geometry, scratch)

    parts = map_tasks(compute, found)
    if len(found) == 1 and found[0].geometry is geometry:
        return parts[0]
    V = np.zeros((C, *geometry.size, G.shape[-1]), G.dtype)
    for t, part in zip(found, parts, strict=True):
        V[:, t.input, ..., t.examples] += part
    return V


def g(G: Array, V: Array, K_shape: tuple[int, ...], geometry: Geometry) -> Array:
    """Gradient of the kernel, the tasks' sums added in order.

    G (O, *output, N); V (C, *size, N) -> K_shape
    """
    found = tasks(geometry, V.shape[0], G.shape[0], V.shape[-1], V.itemsize)
    is_shared = len(K_shape) == 2 + geometry.axes

    def compute(t: Task) -> Array:
        shape = K_shape if is_shared else (K_shape[0], t.geometry.tile[0], *K_shape[2:])
        both = G[:, t.output, ..., t.examples], V[:, t.input, ..., t.examples]
        return gemm.g(np, *both, shape, t.geometry, scratch)

    parts = map_tasks(compute, found)
    if len(found) == 1 and found[0].geometry is geometry:
        return parts[0]
    dK = np.zeros(K_shape, V.dtype)
    for t, part in zip(found, parts, strict=True):
        _kernel(dK, t)[...] += part
    return dK
