"""c, h and g on arrays with channels last, as calls whose plans are those of `offsets`.

Batches are ``(N, *size, C)`` and kernels filters last, ``(*tile, *kernel, C/groups, O)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from math import prod
from typing import TypeAlias

import numpy as np

from convae.engine.arrays import Array
from convae.engine.cpu.buffers import empty
from convae.engine.cpu.calls import Calls, Line, Template
from convae.engine.cpu.choice import goes_along, goes_by_rows, goes_by_taps
from convae.engine.cpu.machine import rounded
from convae.engine.cpu.offsets import plan_for
from convae.engine.cpu.plan import Plan
from convae.engine.cpu.rows import Field, Kind, Number, Operation
from convae.engine.cpu.threads import in_pool
from convae.engine.geometry import Geometry, resolve

FEWEST_BLOCKS = 8
"""Blocks of a problem that threads share, if it has so many examples and rows."""

TASKS = 64
"""Tasks into which the blocks of c and h are divided at most, whatever the threads."""

TASKS_OF_G, WORK_OF_G, WORK_OF_ELEMENT = 16, 1 << 22, 256
"""Tasks into which those of g are divided at most, each with sums of its own, whatever the threads;
multiply-accumulates for which one is worth while, in all and for each sum."""


@dataclass(frozen=True)
class Behind:
    """What is done with a product's result in the same pass; see `rows.Kind`."""

    kind: Kind = Kind.NOTHING
    arrays: Mapping[Field, Array] = field(default_factory=dict)
    numbers: Mapping[Number, float | Sequence[float]] = field(default_factory=dict)

    @property
    def fields(self) -> dict[int, int]:
        """The entries of a line that say so."""
        bias = self.arrays.get(Field.BIAS)
        return {Field.KIND: int(self.kind), Field.BIAS_LENGTH: 0 if bias is None else bias.size}


NOTHING = Behind()

Turned: TypeAlias = dict[int, Array]
"""Transposed kernels by the addresses of the kernels."""

Allocate: TypeAlias = Callable[[tuple[int, ...], "np.dtype[np.generic]"], Array]
"""What makes arrays for what one line leaves for another."""


def c(K: Array, V: Array, Z: Array, geometry: Geometry, behind: Behind = NOTHING) -> Calls:
    """Write ``Z = c(K, V)``."""
    K, V, Z, geometry = _dense(K, V, Z, geometry)
    sizes = V.shape[-1], K.shape[-1]
    name = "c along" if goes_along("c", geometry, *sizes, V.itemsize) else "c"
    plan = plan_for(name, geometry, *sizes, len(V), V.itemsize, _blocks())
    return Calls(Z.dtype, [_lines(plan, {Field.D: Z, Field.A: V, Field.B: K}, behind)])


def h(
    K: Array,
    G: Array,
    V: Array,
    geometry: Geometry,
    behind: Behind = NOTHING,
    known: Turned | None = None,
    allocate: Allocate = empty,
) -> Calls:
    """Write ``V = h(K, G)``; kernels that are `known` have been transposed before."""
    K, V, G, geometry = _dense(K, V, G, geometry)
    C, O = K.shape[-2:]
    arrays = {Field.D: V, Field.A: G, Field.B: K}
    if goes_along("h", geometry, C, O, K.itemsize):
        along = plan_for("h along", geometry, C, O, len(G), G.itemsize, _blocks())
        return Calls(V.dtype, [_lines(along, arrays, behind)])
    by_rows = goes_by_rows(geometry, C, O, K.itemsize)
    name = "h by rows" if by_rows else "h"
    plan = plan_for(name, geometry, V.shape[-1], O, len(G), G.itemsize, _blocks())
    group = plan.fields[Field.GROUP] if geometry.groups > 1 else 0
    rows = K.shape[-3] * C if by_rows else C  # of what is transposed at a time
    count, width = K.size // (rows * O), rounded(rows, K.itemsize)
    known, address = {} if known is None else known, K.ctypes.data
    stages = []
    if address not in known:
        size = K.size if group else (count * O + rounded(O, K.itemsize)) * width
        known[address] = allocate((size,), K.dtype)
        fields: dict[int, int] = {Field.LAST: count, Field.COLUMNS: O}
        if group:
            operation, names = Operation.SWAP, (Field.GROUP, Field.A_GROUP)
            fields |= {name: plan.fields[name] for name in names}
        else:
            operation = Operation.TURN
            fields |= {Field.ROWS: rows, Field.WIDTH: width}
        stages.append([Line(operation, {Field.D: known[address], Field.A: K}, fields)])
    product = _lines(plan, arrays | {Field.B: known[address]}, behind)
    return Calls(V.dtype, [*stages, product])


def g(G: Array, V: Array, dK: Array, geometry: Geometry, allocate: Allocate = empty) -> Calls:
    """Write ``dK = g(G, V)``; sums of several threads are added in order."""
    dK, V, G, geometry = _dense(dK, V, G, geometry)
    C, O = V.shape[-1], G.shape[-1]
    by_taps = goes_by_taps(geometry, C, O, V.itemsize)
    name = "g by taps" if by_taps else "g"
    plan = plan_for(name, geometry, C, O, len(V), V.itemsize, _blocks())
    work = geometry.macs(C, O) * len(V)
    worth = max(WORK_OF_G, WORK_OF_ELEMENT * dK.size)
    tasks = min(TASKS_OF_G, 1 << (work // worth).bit_length())
    total = allocate(dK.shape, dK.dtype) if by_taps else dK
    lines, sums = [], []
    for number, part in enumerate(parts(plan.blocks, tasks)):
        D = total if number == 0 else allocate(dK.shape, dK.dtype)
        fields: dict[int, int] = {Field.COUNT: dK.size}
        arrays = {Field.D: D, Field.A: V, Field.B: G}
        lines.append(Line(Operation.CONVOLVE, arrays, fields, plan=plan, part=part))
        if number:
            added = {Field.D: total, Field.A: D}
            sums.append([Line(Operation.ADD, added, fields)])
    if by_taps:
        sums += _ordered(total, dK, geometry, allocate)
    return Calls(dK.dtype, [lines, *sums])


def _ordered(sums: Array, dK: Array, geometry: Geometry, allocate: Allocate) -> list[list[Line]]:
    """Put sums by taps, (groups, kernel rows, filters, taps, channels), into a kernel's order."""
    C, O = dK.shape[-2:]
    rows, columns = O // geometry.groups, geometry.kernel[-1] * C
    count, width = dK.size // (rows * columns), rounded(rows, dK.itemsize)
    turned = allocate(((count * columns + rounded(columns, dK.itemsize)) * width,), dK.dtype)
    turn: dict[int, int] = {
        Field.LAST: count, Field.ROWS: rows, Field.COLUMNS: columns, Field.WIDTH: width
    }  # fmt: skip
    gather = {**turn, Field.GROUP: count // geometry.groups, Field.CHANNELS: O}
    return [
        [Line(Operation.TURN, {Field.D: turned, Field.A: sums}, turn)],
        [Line(Operation.GATHER, {Field.D: dK, Field.A: turned}, gather)],
    ]


def finish(D: Array, behind: Behind) -> Calls:
    """Do with D what would be behind a product."""
    count = prod(D.shape[:-2])
    fields: dict[int, int] = {Field.SPAN: D.size // count}
    return Calls(D.dtype, [divided(Operation.FINISH, {Field.D: D}, fields, count, behind)])


def compute(operation: str, arrays: tuple[Array, Array, Array], geometry: Geometry) -> None:
    """Compute c of (K, V, Z), h of (K, G, V), or g of (G, V, dK), of arrays with elements."""
    shapes = tuple(array.shape for array in arrays)
    _template(operation, shapes, arrays[0].dtype, geometry, in_pool())(*arrays)


@lru_cache(maxsize=128)
def _template(
    operation: str, shapes: tuple[tuple[int, ...], ...], dtype: np.dtype[np.generic],
    geometry: Geometry, is_in_pool: bool,
) -> Template:  # fmt: skip
    """Write the calls of an operation once for all arrays of these shapes."""
    between: list[Array] = []

    def allocate(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
        between.append(empty(shape, dtype))
        return between[-1]

    one, two, three = arrays = [np.empty(shape, dtype) for shape in shapes]
    if operation == "c":
        calls = c(one, two, three, geometry)
    elif operation == "h":
        calls = h(one, two, three, geometry, allocate=allocate)
    else:
        calls = g(one, two, three, geometry, allocate)
    return Template(calls, arrays, between)


def _dense(
    K: Array, V: Array, Z: Array, geometry: Geometry
) -> tuple[Array, Array, Array, Geometry]:
    """Take a kernel as large as its input for one of a single element and more channels."""
    shape, groups = geometry.kernel, geometry.groups
    if shape != geometry.size or groups != 1 or any(map(any, geometry.padding)):
        return K, V, Z, geometry
    O = K.shape[-1]
    N, one = len(V), (1,) * geometry.axes
    point = resolve(size=one, kernel=1)
    return K.reshape(*one, -1, O), V.reshape(N, *one, -1), Z.reshape(N, *one, O), point


def _blocks() -> int:
    """How many blocks a problem should have at least: one, in a thread that has it for itself."""
    return 1 if in_pool() else FEWEST_BLOCKS


def parts(count: int, tasks: int) -> list[tuple[int, int]]:
    """Divide blocks, or what else is done one by one, among threads, unless this is one of them."""
    tasks = 1 if in_pool() else min(count, tasks)
    return list(pairwise(count * task // tasks for task in range(tasks + 1)))


def divided(
    operation: Operation, arrays: Mapping[Field, Array], fields: Mapping[int, int], count: int,
    behind: Behind, plan: Plan | None = None,
) -> list[Line]:  # fmt: skip
    """Write the parts of what is done `count` times, with what is behind it."""
    where, entries = {**arrays, **behind.arrays}, {**fields, **behind.fields}
    return [
        Line(operation, where, entries, behind.numbers, plan, part=part)
        for part in parts(count, TASKS)
    ]


def _lines(plan: Plan, arrays: Mapping[Field, Array], behind: Behind) -> list[Line]:
    """Write the parts of a product."""
    return divided(plan.operation, arrays, {}, plan.blocks, behind, plan)
