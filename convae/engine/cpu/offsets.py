"""Tables of offsets that make c, h and g of any kernel the same sum of products.

With three axes, missing leading ones of size 1, channels last, and kernels filters last,
``(*tile, *kernel, C/groups, O)``, all three are

    D[r] (+)= sum over q of A[a_r + p_q] * B[b_q]

where D[r] and B[b_q] are rows of channels or filters, and A's elements are numbers:

    c:  r output positions      q kernel elements and channels    A = V, B = K
    h:  r input positions       q kernel elements and filters     A = G, B = K^T
    g:  r elements of K         q examples and output positions   A = V, B = G

What differs are the offsets. Positions at which they differ, by the stride's phase, the kernel of
a tile, or the padding that they meet, are the terms of a plan (`groups`). Work is divided into
blocks, whose offsets are the same (`division`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from itertools import product
from math import prod

import numpy as np

from convae.engine.cpu.builder import Builder, Sizes, joined, outer
from convae.engine.cpu.division import (
    PADDED,
    Boxes,
    Table,
    Three,
    hidden_boxes,
    strides,
    visible_boxes,
)
from convae.engine.cpu.groups import Class, classes, input_taps, output_groups, output_taps
from convae.engine.cpu.machine import PANEL_BYTES, VECTOR_BYTES, rounded
from convae.engine.cpu.plan import Plan
from convae.engine.cpu.rows import Field, Fresh, Operation
from convae.engine.geometry import Geometry


@lru_cache(maxsize=256)
def plan_for(
    operation: str, geometry: Geometry, C: int, O: int, examples: int, itemsize: int, blocks: int
) -> Plan:
    """Plan c, h or g of C channels and O filters, in so many blocks, if it is large enough.

    What "h by rows", "g by taps", "c along" and "h along" are, `choice` says.
    """
    ways: dict[str, Callable[[Sizes], Plan]] = {
        "c": _plan_c, "h": _plan_h, "g": _plan_g,
        "h by rows": _plan_h_by_rows, "g by taps": _plan_g_by_taps,
        "c along": partial(_plan_along, operation="c"),
        "h along": partial(_plan_along, operation="h"),
    }  # fmt: skip
    return ways[operation](Sizes(geometry, C, O, examples, itemsize, blocks))


def _plan_c(sizes: Sizes) -> Plan:
    """Plan c: rows are output positions, steps kernel elements and channels."""
    builder, O = Builder(sizes, sizes.by_outputs()), sizes.O
    channels, filters = builder.channels, builder.filters
    builder.share_terms(channels, filters)
    step = builder.axes.stride[2] * sizes.C
    time = partial(builder.time_of_positions, step=step, A_channels=channels, columns=filters)
    apart, boxes, chosen = builder.cheapest(builder.output_classes, time, sizes.C)
    for found in chosen:
        shifts, elements, chains = builder.in_chains(found, step)
        steps = (
            outer(shifts, 1, channels, 1, chains),
            outer(elements, channels * O, channels, O, chains),
        )
        apart_by = filters, channels, filters
        depths = builder.always(len(steps[0]))
        builder.terms_of_groups(found.rows, steps, depths, apart_by, chains.of(channels))
    fresh = Fresh.BLOCK if apart else Fresh.ROWS
    return builder.plan(boxes, sizes.C, builder.division.span(O), fresh)


def _plan_g(sizes: Sizes) -> Plan:
    """Plan g: rows are kernel elements and channels, steps output positions."""
    builder, O = Builder(sizes, sizes.by_outputs()), sizes.O
    axes, channels = builder.axes, builder.channels
    builder.share_terms(channels, builder.filters)

    def rows_of(found: Class) -> tuple[Table, Table, Table]:
        A_rows = outer(found.shifts, 1, channels)
        return outer(found.elements, channels * O, channels, O), A_rows, np.zeros_like(A_rows)

    def time(found: Class) -> float:
        return builder.time(rows_of(found), len(found.places), builder.filters)

    _, boxes, chosen = builder.cheapest(builder.output_classes, time, sizes.C)
    for found in chosen:
        rows = rows_of(found)
        steps, depths = (found.bases, found.places), builder.counts(found.numbers)
        builder.terms_of_groups(rows, steps, depths, (builder.filters, channels, builder.filters))
    _divide_G(boxes)
    every = prod(axes.tile) * prod(axes.kernel) * channels
    rows_of_D = joined(builder.written)
    is_each_once = len(rows_of_D) == every == len(np.unique(rows_of_D))
    return builder.plan(
        boxes, sizes.C, 0, Fresh.FIRST if is_each_once else Fresh.ALL, beyond=channels - 1
    )


def _plan_g_by_taps(sizes: Sizes) -> Plan:
    """Plan g: rows are filters, steps output positions, columns the taps and channels of a row."""
    builder, axes, O = Builder(sizes, sizes.by_outputs()), sizes.axes, sizes.O
    division, (k0, k1, k2) = builder.division, axes.kernel
    channels, filters, columns = builder.channels, builder.filters, k2 * builder.channels
    boxes = visible_boxes(axes, division, sizes.C, O, PADDED)
    counts, whole = division.box[1:], strides(boxes.whole, channels)
    along = [output_groups(axes, axis, counts[axis], False, False) for axis in range(3)]
    (found,) = classes(axes, along, division, whole, strides(axes.output, O))
    every = np.arange(filters)
    row = builder.add_rows(every * columns, every)
    step = builder.add_steps(found.places, found.bases)
    both = builder.always(filters), builder.counts(found.numbers)
    rows_of_kernel = product(range(builder.groups), range(k0), range(k1))
    for number, (group, m0, m1) in enumerate(rows_of_kernel):
        B = group * boxes.positions * channels
        B += m0 * axes.dilation[0] * whole[1] + m1 * axes.dilation[1] * whole[2]
        D = number * filters * columns
        builder.add_term(*both, (D, group * filters, row, step, B, columns))
    _divide_G(boxes)
    return builder.plan(boxes, sizes.C, 0, Fresh.FIRST, builder.groups)


def _divide_G(boxes: Boxes) -> None:
    """Let blocks be of G, which is B, and not of D."""
    boxes.table[:, 10], boxes.table[:, 9] = boxes.table[:, 9].copy(), 0


def _plan_h(sizes: Sizes) -> Plan:
    """Plan h: rows are input positions, steps filters at the kernel elements that they meet."""
    axes, C, O = sizes.axes, sizes.C, sizes.O
    one, two, three = (s * t for s, t in zip(axes.stride, axes.tile, strict=True))
    numbers = max(prod(axes.met(axes.size)) * O, prod(axes.size) * C)
    division = sizes.divide(axes.size, (one, two, three), numbers)
    builder = Builder(sizes, division)
    channels, filters = builder.channels, builder.filters
    builder.share_terms(filters, channels)
    width = rounded(channels, sizes.itemsize)
    time = partial(builder.time_of_positions, step=O, A_channels=filters, columns=channels)
    apart, boxes, chosen = builder.cheapest(builder.input_classes, time, O)
    for found in chosen:
        shifts, elements, chains = builder.in_chains(found, O)
        A_steps = outer(shifts, 1, filters, 1, chains)
        B_steps = outer(elements, O * width, filters, width, chains)
        if builder.group and builder.groups > 1:  # rows of B are those of all groups side by side
            B_steps = outer(elements, filters * C, filters, C, chains)
        steps, depths = (A_steps, B_steps), builder.always(len(A_steps))
        apart_by = channels, filters, filters * width
        builder.terms_of_groups(found.rows, steps, depths, apart_by, chains.of(filters))
    fresh = Fresh.BLOCK if apart else Fresh.ROWS
    return builder.plan(boxes, O, division.span(C), fresh)


def _plan_h_by_rows(sizes: Sizes) -> Plan:
    """Plan h: a term for each row of a kernel, whose rows are examples, and steps filters."""
    axes, C, O = sizes.axes, sizes.C, sizes.O
    builder = Builder(sizes, sizes.divide(axes.size, (1, 1, 1), prod(axes.size) * C))
    division = builder.division
    boxes = hidden_boxes(axes, division, C, O, (True, True, True))
    (k0, k1, k2), (n0, n1, n2) = axes.kernel, axes.size
    examples, filters = np.arange(division.number), np.arange(O)
    row = builder.add_rows(examples * prod(axes.size) * C, examples * prod(axes.output) * O)
    width = rounded(k2 * C, sizes.itemsize)
    step = builder.add_steps(filters, filters * width)
    counts = np.arange(division.number + 1), builder.always(O)
    for number, place in enumerate(product(*map(range, axes.output))):
        sides = zip(place, axes.stride, axes.before, strict=True)
        y0, y1, y2 = (j * s - b for j, s, b in sides)
        first, last = max(0, -y2), min(k2, n2 - y2)
        for m0, m1 in product(range(k0), range(k1)):
            x0, x1 = y0 + m0 * axes.dilation[0], y1 + m1 * axes.dilation[1]
            if first < last and 0 <= x0 < n0 and 0 <= x1 < n1:
                D = ((x0 * n1 + x1) * n2 + y2 + first) * C
                B = ((number * k0 + m0) * k1 + m1) * O * width + first * C
                columns = (last - first) * C
                builder.add_term(*counts, (D, number * O, row, step, B, columns))
    return builder.plan(boxes, O, division.span(C), Fresh.BLOCK)


def _plan_along(sizes: Sizes, operation: str) -> Plan:
    """Plan c with stride 1, or h, of a shared kernel with the vectors along positions.

    For each phase of the first two axes, there is a product ``M = K @ A^T`` of the elements of the
    kernel that it meets there, with a row for each element along the last axis and channel of D.
    Rows of D are sums of shifted rows of M.
    """
    axes, C, O, is_h = sizes.axes, sizes.C, sizes.O, operation == "h"
    many, few = (O, C) if is_h else (C, O)
    stride, (_, k1, k2) = axes.stride if is_h else (1, 1, 1), axes.kernel
    positions, box = axes.boxed(operation)
    division = sizes.divide(positions, stride, prod(box) * (many + k2 * few), is_copied=True)
    boxes = (hidden_boxes if is_h else visible_boxes)(axes, division, C, O, PADDED)
    width, room = rounded(boxes.positions, sizes.itemsize), boxes.positions * many
    width |= VECTOR_BYTES // sizes.itemsize  # an odd number of cache lines
    _, plane, row, _ = strides(boxes.whole, 1)
    of_many, of_few = (1, O) if is_h else (O, 1)

    def taps(axis: int, phase: int) -> tuple[Three, ...]:
        return input_taps(axes, axis, phase, False) if is_h else output_taps(axes, axis)

    filters = np.arange(many, dtype=np.int64)
    steps: list[Table] = []
    phases: list[tuple[int, int]] = []
    for p0, p1 in product(range(stride[0]), range(stride[1])):
        begin = len(steps)
        for (m0, j0, _), (m1, j1, _) in product(taps(0, p0), taps(1, p1)):
            element, place = (m0 * k1 + m1) * k2 * C * O, j0 * plane + j1 * row
            A_steps, B_steps = element + filters * of_many, place + filters * width
            steps.append(np.stack([A_steps, B_steps], axis=1).reshape(-1))
        phases.append((begin * many, (len(steps) - begin) * many))
    sums: list[tuple[int, int]] = []
    along: list[int] = []
    for p2 in range(stride[2]):
        met = taps(2, p2)
        sums.append((len(along), len(met)))
        along += [m2 * few * width + j2 for m2, j2, _ in met]
    fields = boxes.fields(many) | {
        Field.SPAN: division.span(few),
        Field.ROOM: rounded(room, sizes.itemsize),
        Field.ROWS: k2 * few,
        Field.WIDTH: width,
        Field.COLUMNS: few,
    }
    fields |= {Field.STRIDE + n: s for n, s in enumerate(stride)}
    tables = {
        Field.BLOCKS: boxes.table,
        Field.D_ROWS: np.arange(k2 * few, dtype=np.int64) * width,
        Field.A_ROWS: outer(np.arange(k2, dtype=np.int64), C * O, few, of_few),
        Field.STEPS: joined(steps),
        Field.PHASES: np.array(phases, np.int64),
        Field.SUMS: np.array(sums, np.int64),
        Field.TAPS: np.array(along, np.int64),
    }
    scratch = PANEL_BYTES // sizes.itemsize + rounded(room, sizes.itemsize)
    scratch += (rounded(many, sizes.itemsize) + k2 * few + 1) * width
    return Plan(Operation.SPREAD, fields, tables, len(boxes.table), scratch)
