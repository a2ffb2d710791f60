"""Compiled padding by copies of positions, see `convae.engine.edges`.

Batches are ``(N, *size, C)``: V, and W with its padding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np

from convae.engine import edges
from convae.engine.arrays import Array
from convae.engine.cpu import threads
from convae.engine.cpu.calls import anchor, place
from convae.engine.cpu.convolution import TASKS, parts
from convae.engine.cpu.division import Table, three
from convae.engine.cpu.jit import compiled
from convae.engine.cpu.passes import add_row, copy_row, zero_row
from convae.engine.geometry import Geometry
from convae.engine.program.arithmetic import Run


def extend(V: Array, W: Array, geometry: Geometry) -> Run:
    """Write V, and copies of its positions around it, to W."""
    return _by_examples(_extend, V, W, geometry)


def fold(V: Array, W: Array, geometry: Geometry) -> Run:
    """Write to V what lies in the middle of W, and add to it what lies in the padding."""
    return _by_examples(_fold, V, W, geometry)


def _by_examples(move: Callable[..., None], V: Array, W: Array, geometry: Geometry) -> Run:
    """Have threads share examples, unless this is one of them; the caller keeps the arrays."""
    size, sources = np.array(three(geometry.size)), _sources(geometry)
    how = size, *sources, geometry.padding[-1][0], V.shape[-1]
    tasks = [
        (anchor(V.dtype), place(V[first:last]), place(W[first:last]), last - first, *how)
        for first, last in parts(len(V), TASKS)
    ]
    if len(tasks) == 1:
        return partial(move, *tasks[0])

    def run() -> None:
        threads.map_tasks(lambda task: move(*task), tasks)

    return run


@lru_cache(maxsize=128)
def _sources(geometry: Geometry) -> tuple[Table, ...]:
    """Return which position every one of the padded ones copies, of three axes."""
    return (*(np.zeros(1, np.int64),) * (3 - geometry.axes), *edges.sources(geometry))


@compiled
def _extend(
    M: Array, v: int, w: int, examples: int, size: Table, planes: Table, rows: Table,
    columns: Table, before: int, C: int,
) -> None:  # fmt: skip
    for line in range(examples * len(planes) * len(rows)):
        of_plane, to = line // len(rows), w + line * len(columns) * C
        plane = of_plane // len(planes) * size[0] + planes[of_plane % len(planes)]
        source = v + (plane * size[1] + rows[line % len(rows)]) * size[2] * C
        copy_row(M, to + before * C, source, size[2] * C)
        for number in range(len(columns) - size[2]):
            p = number if number < before else number + size[2]
            copy_row(M, to + p * C, source + columns[p] * C, C)


@compiled
def _fold(
    M: Array, v: int, w: int, examples: int, size: Table, planes: Table, rows: Table,
    columns: Table, before: int, C: int,
) -> None:  # fmt: skip
    zero_row(M, v, examples * size[0] * size[1] * size[2] * C)
    for line in range(examples * len(planes) * len(rows)):
        of_plane, source = line // len(rows), w + line * len(columns) * C
        plane = of_plane // len(planes) * size[0] + planes[of_plane % len(planes)]
        to = v + (plane * size[1] + rows[line % len(rows)]) * size[2] * C
        add_row(M, to, source + before * C, size[2] * C)
        for number in range(len(columns) - size[2]):
            p = number if number < before else number + size[2]
            add_row(M, to + columns[p] * C, source + p * C, C)
