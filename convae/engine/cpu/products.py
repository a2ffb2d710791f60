"""Sums of products by tables of offsets, and what is behind them: the loops of all operations.

All memory is one array M, in which every array lies at some offset (`calls.anchor`). T is an array
of tables of offsets, and `row` a line of a list of calls, whose entries `rows` names.
"""

from __future__ import annotations

import numpy as np
from numba import carray

from convae.engine.arrays import Array
from convae.engine.cpu.choice import ALONE
from convae.engine.cpu.jit import AVX512, compiled, inline, part
from convae.engine.cpu.llvm import (
    MOST_VECTORS,
    added,
    current,
    grouped_runs,
    grouped_tiles,
    pointer,
    replaced,
    tiles,
    transpose,
)
from convae.engine.cpu.machine import PANEL_BYTES, RUN, VECTOR_BYTES
from convae.engine.cpu.passes import (
    activate_row,
    add_row,
    compare_row,
    copy_row,
    copy_rows,
    derive_row,
    pool_row,
    scatter_row,
    sum_rows,
    zero_row,
)
from convae.engine.cpu.rows import (
    BLOCK_ENTRIES,
    FIELDS,
    NUMBERS,
    TERM_ENTRIES,
    Field,
    Fresh,
    Job,
    Kind,
    Number,
    Operation,
    Watched,
)

SUMS = np.zeros(1)
"""An array like those of sums."""

ERRORS = 4096
"""Squared errors that are summed before they are added in float64."""

FEWEST_ROWS = 32
"""Rows of A for which it is worth copying rows of B."""

ROWS_AT_ONCE, FEW_ROWS = 768, 72
"""Rows of D that are computed, where there are groups, before others are begun: those in runs, one
vector of all of them after the other; and others."""

SUM_LENGTH = 256
"""Rows, or steps, that are summed before their sum is added to the others, for accuracy."""


@part
def multiply(
    M: Array, T: Array, d: int, d_rows: int, a: int, a_rows: int, rows: int, step: int, depth: int,
    b: int, columns: int, fresh: bool, panel: int, panel_steps: Array,
) -> None:  # fmt: skip
    """Do what `llvm.tiles` does, with the steps in T, for any depth and number of columns.

    Rows of B that lie far apart, and would displace each other in the L1 cache, are copied to
    `panel` where enough rows of A meet them.
    """
    if rows == 0:
        return
    if depth == 0 and fresh:
        for r in range(rows):
            zero_row(M, d + T[d_rows + r], columns)
    vector = VECTOR_BYTES // M.itemsize
    parts = -(-columns // (MOST_VECTORS * vector))
    width = -(-columns // (parts * vector)) * vector
    length = PANEL_BYTES // M.itemsize // width
    length = max(1, -(-depth // max(1, -(-depth // length))))
    is_apart = depth > 1 and T[step + 3] - T[step + 1] > width and rows >= FEWEST_ROWS
    for j in range(0, columns, width):
        wide = min(width, columns - j)
        for q in range(0, depth, length):
            count, renew = min(length, depth - q), fresh and q == 0
            steps, now, rows_of_B = T, step + 2 * q, b + j
            if is_apart:
                for i in range(count):
                    copy_row(M, panel + i * width, b + j + T[now + 2 * i + 1], wide)
                    panel_steps[2 * i], panel_steps[2 * i + 1] = T[now + 2 * i], i * width
                steps, now, rows_of_B = panel_steps, 0, panel
            tiles(
                M, T, d + j, d_rows, a, a_rows, rows, steps, now, count, rows_of_B, wide, renew
            )  # fmt: skip


@part
def multiply_groups(
    M: Array, T: Array, d: int, d_rows: int, a: int, a_rows: int, rows: int, step: int, depth: int,
    b: int, fresh: bool, A_group: int, group: int, readable: int, term: int,
) -> None:  # fmt: skip
    """Do what `llvm.grouped_tiles` and `grouped_runs` do for a term in T, of any depth and columns.

    So many numbers are `readable` from where a row's first group begins.
    """
    columns, D_distance, A_distance = T[term + 5], T[term + 6], T[term + 7]
    in_threes = T[term + 8]
    chained = in_threes + T[term + 9]
    run = RUN if D_distance > 0 else 1
    if depth == 0 and fresh:
        for r in range(rows):
            for n in range(run):
                zero_row(M, d + T[d_rows + r] + n * D_distance, columns)
    vector = VECTOR_BYTES // M.itemsize
    together = vector // max(A_group, group)
    if AVX512 and together <= ALONE:
        together = 1
    part = together * group
    lanes = A_group, group
    if together == 1:
        alone = vector // 2 if AVX512 and min(part, columns) <= vector // 2 else vector
        lanes = alone, alone
    most = MOST_VECTORS * part if A_group == group == 1 else part
    length = PANEL_BYTES // 2 // (max(most // part, 2) * VECTOR_BYTES)  # half a cache: A's too
    length = max(1, -(-depth // max(1, -(-depth // length))))
    length += -length % 3  # which threes do not cross
    at_once = (ROWS_AT_ONCE if run > 1 else FEW_ROWS) // run
    for r in range(0, rows, at_once):
        n, j = min(at_once, rows - r), 0
        while j < columns:
            wide = most if columns - j >= most else min(part, columns - j)
            first = j // group * A_group
            A, is_whole = a + first, first + vector <= readable
            q = 0
            while q < depth:
                threes, end = max(0, min(length, in_threes - q)) // 3, min(q + length, depth)
                if in_threes < end < chained:
                    end -= (end - in_threes) % 2  # nor pairs
                pairs = max(0, min(end, chained) - max(q, in_threes)) // 2
                count, now, renew = end - q, step + 2 * q, fresh and q == 0
                q = end
                if run > 1:
                    grouped_runs(
                        M, T, d + j, d_rows + r, A, a_rows + r, n, T, now, count, b + j, wide,
                        renew, lanes[0], lanes[1], is_whole, D_distance, A_distance, threes, pairs,
                    )  # fmt: skip
                else:
                    grouped_tiles(
                        M, T, d + j, d_rows + r, A, a_rows + r, n, T, now, count, b + j, wide,
                        renew, lanes[0], lanes[1], is_whole,
                    )  # fmt: skip
            j += wide


@part
def swap(M: Array, t: int, a: int, channels: int, filters: int, columns: int) -> None:
    """Exchange the channels and filters of groups side by side.

    (channels, groups, filters) at a -> (filters, groups, channels) at t
    """
    step = columns // filters * channels
    for i in range(channels):
        for j in range(columns):
            place = t + j % filters * step + j // filters * channels + i
            copy_row(M, place, a + i * columns + j, 1)


@part
def surround(M: Array, T: Array, row: Array, block: int, p: int) -> int:
    """Return where the box of A that a block reads lies, (examples, *whole, C).

    Where it is not a part of A (N, *size, C) that lies like that, it is copied to offset p, with
    zeros beyond A's edge; for products by taps as (groups, examples, *whole, C / groups).
    """
    groups = max(row[Field.BY_TAPS], 1)
    C, size2 = row[Field.CHANNELS] // groups, row[Field.SIZE + 2]
    examples, start2, extent2 = T[block + 2], T[block + 5], T[block + 8]
    is_inside, is_alike, place, positions = True, True, 0, examples
    for axis in range(3):
        start, extent, size = T[block + 3 + axis], T[block + 6 + axis], row[Field.SIZE + axis]
        is_inside = is_inside and start >= 0 and start + extent <= size
        is_alike = is_alike and (positions == 1 or row[Field.WHOLE + axis] == size)
        place, positions = place * size + start, positions * extent
    if is_inside and is_alike and groups == 1:
        return int(row[Field.A] + T[block + 1] + place * C)
    left = min(max(-start2, 0), extent2)
    inside = max(min(extent2, size2 - start2) - left, 0)
    right = extent2 - left - inside
    for e in range(examples):
        for a0 in range(T[block + 6]):
            y0 = T[block + 3] + a0
            for a1 in range(T[block + 7]):
                y1 = T[block + 4] + a1
                line = (e * row[Field.WHOLE] + a0) * row[Field.WHOLE + 1] + a1
                is_beyond = y0 < 0 or y0 >= row[Field.SIZE] or y1 < 0 or y1 >= row[Field.SIZE + 1]
                place = (e * row[Field.SIZE] + y0) * row[Field.SIZE + 1] + y1
                place = (place * size2 + start2 + left) * groups * C
                for group in range(groups):
                    to = p + group * row[Field.ROOM] // groups + line * row[Field.WHOLE + 2] * C
                    if is_beyond:
                        zero_row(M, to, extent2 * C)
                        continue
                    source = row[Field.A] + T[block + 1] + place + group * C
                    zero_row(M, to, left * C)
                    if groups == 1:
                        copy_row(M, to + left * C, source, inside * C)
                    else:
                        copy_rows(M, to + left * C, C, source, groups * C, inside, C)
                    zero_row(M, to + (left + inside) * C, right * C)
    return p


@part
def finish(M: Array, row: Array, numbers: Array, first: int, count: int) -> float:
    """Do what is behind a product, on elements of D that have just been written.

    Returns the sum of squared errors, 0 where there are none.
    """
    kind, J = row[Field.KIND], 0.0
    d = row[Field.D] + first
    end = d + count
    p = Number.DERIVATIVE
    derivative = numbers[p], numbers[p + 1], numbers[p + 2], numbers[p + 3]
    if kind == Kind.NOTHING:
        return J
    if kind == Kind.SLOPE:
        if row[Field.EXTRA] != 0:
            add_row(M, d, row[Field.EXTRA] + first, count)
        derive_row(M, d, row[Field.H] + first, count, derivative)
        return J
    is_sigmoid = kind == Kind.SIGMOID or kind == Kind.SIGMOID_ERROR
    length, i = row[Field.BIAS_LENGTH], d
    while i < end:
        place = (i - row[Field.D]) % length
        n = min(length - place, end - i)
        activate_row(M, i, row[Field.BIAS] + place, n, numbers[Number.SLOPE], is_sigmoid)
        i += n
    if kind == Kind.ERROR or kind == Kind.SIGMOID_ERROR:
        target = row[Field.TARGET] + first
        for i in range(0, count, ERRORS):
            n = min(ERRORS, count - i)
            J += compare_row(M, d + i, target + i, n, derivative, numbers[Number.SCALE])
    return J


@inline
def convolve(
    M: Array, T: Array, row: Array, numbers: Array, scratch: int, panel_steps: Array
) -> float:
    """Do the terms of a product's blocks, each on a box of A, and what is behind them.

    See `plan.Plan`; returns the sum of what `finish` returns.
    """
    J, panel = 0.0, scratch
    room = scratch + PANEL_BYTES // M.itemsize
    for number in range(row[Field.FIRST], row[Field.LAST]):
        block = row[Field.BLOCKS] + BLOCK_ENTRIES * number
        a, b = surround(M, T, row, block, room), row[Field.B] + T[block + 10]
        if row[Field.BY_TAPS] > 0:
            a, b = b, a
        readable = row[Field.READABLE]
        if a == room:  # behind which there is room
            readable += VECTOR_BYTES // M.itemsize
        d, mode = row[Field.D] + T[block + 9], row[Field.FRESH]
        fresh = mode == Fresh.ROWS or (mode == Fresh.FIRST and number == row[Field.FIRST])
        if mode == Fresh.BLOCK:
            zero_row(M, d, T[block] * row[Field.SPAN])
        for index in range(row[Field.TERM_COUNT]):
            term = row[Field.TERMS] + TERM_ENTRIES * index
            entry = index * row[Field.NUMBERS] + T[block]
            d_rows, a_rows = row[Field.D_ROWS] + T[term + 2], row[Field.A_ROWS] + T[term + 2]
            rows, step = T[row[Field.ROW_COUNTS] + entry], row[Field.STEPS] + 2 * T[term + 3]
            depth = T[row[Field.DEPTHS] + entry]
            if row[Field.GROUP] > 0:
                multiply_groups(
                    M, T, d + T[term], d_rows, a + T[term + 1], a_rows, rows, step, depth,
                    b + T[term + 4], fresh, row[Field.A_GROUP], row[Field.GROUP], readable, term,
                )  # fmt: skip
            else:
                multiply(
                    M, T, d + T[term], d_rows, a + T[term + 1], a_rows, rows, step, depth,
                    b + T[term + 4], T[term + 5], fresh, panel, panel_steps,
                )  # fmt: skip
        J += finish(M, row, numbers, T[block + 9], T[block] * row[Field.SPAN])
    return J


@part
def turn(M: Array, t: int, a: int, rows: int, columns: int, width: int) -> None:
    """Transpose a matrix; what lies beyond it up to whole vectors is filled up.

    (rows, columns) at a -> (columns rounded up to a vector, width) at t
    """
    vector = VECTOR_BYTES // M.itemsize
    for r in range(0, rows, vector):
        for j in range(0, columns, vector):
            there = min(vector, rows - r), min(vector, columns - j)
            transpose(M, t + j * width + r, width, a + r * columns + j, columns, there[0], there[1])


@inline
def spread(
    M: Array, T: Array, row: Array, numbers: Array, scratch: int, panel_steps: Array
) -> float:
    """Compute the blocks of c or h to few channels; see `choice.goes_along`."""
    O, C, width = row[Field.CHANNELS], row[Field.COLUMNS], row[Field.WIDTH]
    stride = row[Field.STRIDE], row[Field.STRIDE + 1], row[Field.STRIDE + 2]
    vector = VECTOR_BYTES // M.itemsize
    panel, J = scratch, 0.0
    room = panel + PANEL_BYTES // M.itemsize
    turned = room + row[Field.ROOM]
    products = turned + -(-O // vector) * vector * width
    sums = products + row[Field.ROWS] * width
    length = row[Field.WHOLE + 2]  # of the box's rows
    plane = row[Field.WHOLE + 1] * length
    for number in range(row[Field.FIRST], row[Field.LAST]):
        block = row[Field.BLOCKS] + BLOCK_ENTRIES * number
        box = surround(M, T, row, block, room)
        examples, d = T[block + 2], row[Field.D] + T[block + 9]
        counts = T[block + 11], T[block + 12], T[block + 13]
        before = (examples - 1) * row[Field.WHOLE] * plane
        columns = before + (T[block + 6] - 1) * plane + (T[block + 7] - 1) * length
        columns += T[block + 8]  # and no more, since they may be the last of A
        turn(M, turned, box, columns, O, width)
        for phase in range(stride[0] * stride[1]):
            p0, p1 = phase // stride[1], phase % stride[1]
            planes, rows = -(-(counts[0] - p0) // stride[0]), -(-(counts[1] - p1) // stride[1])
            if planes < 1 or rows < 1:
                continue
            columns = before + (planes - 1) * plane + (rows - 1) * length + T[block + 8]
            steps = row[Field.PHASES] + 2 * phase
            multiply(
                M, T, products, row[Field.D_ROWS], row[Field.B], row[Field.A_ROWS],
                row[Field.ROWS], row[Field.STEPS] + 2 * T[steps], T[steps + 1], turned, columns,
                columns > 0, panel, panel_steps,
            )  # fmt: skip
            for x in range(min(stride[2], counts[2])):
                begin = row[Field.TAPS] + T[row[Field.SUMS] + 2 * x]
                terms, count = T[row[Field.SUMS] + 2 * x + 1], -(-(counts[2] - x) // stride[2])
                for c in range(C):
                    if terms > 0:
                        sum_rows(M, T, sums, products + c * width, begin, terms, columns)
                    else:
                        zero_row(M, sums, columns)
                    for e in range(examples):
                        for j0 in range(planes):
                            place = (e * counts[0] + j0 * stride[0] + p0) * counts[1] + p1
                            place = d + (place * counts[2] + x) * C + c
                            t = sums + (e * row[Field.WHOLE] + j0) * plane
                            for j1 in range(rows):
                                to = place + j1 * stride[1] * counts[2] * C
                                scatter_row(M, to, stride[2] * C, t + j1 * length, count)
        J += finish(M, row, numbers, T[block + 9], T[block] * row[Field.SPAN])
    return J


@part
def pool(M: Array, row: Array) -> None:
    """Take the largest of windows, or what switches point at, or put values there, line by line."""
    operation, C = row[Field.OPERATION], row[Field.CHANNELS]
    rows, columns = row[Field.SIZE + 1], row[Field.SIZE + 2]
    one, two, three = row[Field.STRIDE], row[Field.STRIDE + 1], row[Field.STRIDE + 2]
    is_pool, is_unpool = operation == Operation.POOL, operation == Operation.UNPOOL
    length = columns // three * C
    for line in range(row[Field.FIRST], row[Field.LAST]):
        plane, top = line // (rows // two) * one, line % (rows // two) * two
        for number in range(one * two * three):
            w0, w1, w2 = number // (two * three), number // three % two, number % three
            begin = (((plane + w0) * rows + top + w1) * columns + w2) * C
            for i in range(0, length, C):
                few, many = line * length + i, begin + i * three
                d, a = (many, few) if is_unpool else (few, many)
                pool_row(
                    M, row[Field.D] + d, row[Field.B] + few, row[Field.A] + a, C, number, is_pool,
                    is_unpool,
                )  # fmt: skip


@part
def sum_columns(M: Array, d: int, a: int, count: int, columns: int, line: int) -> None:
    """Sum `count` rows at a, to d; `line` has room for whole vectors of a row."""
    # few columns are repeated, so that inner loops are long
    length = max(1, 64 // columns) * columns
    zero_row(M, d, columns)  # and never M[d]: offsets may be negative
    total = count * columns
    for begin in range(0, total, length * SUM_LENGTH):
        zero_row(M, line, length)
        end = min(begin + length * SUM_LENGTH, total)
        for i in range(begin, end, length):
            add_row(M, line, a + i, min(length, end - i))
        for j in range(0, length, columns):
            add_row(M, d, line + j, columns)


@inline
def do(M: Array, job: Array, scratch: int, panel_steps: Array) -> None:
    """Do lines of a job, one at a time, until this and other threads have taken all."""
    count, last = job[Job.ROW_COUNT], job[Job.LAST]
    T = carray(pointer(job[Job.TABLE], job), job[Job.TABLE_LENGTH])
    rows = carray(pointer(job[Job.ROWS], job), (count, FIELDS))
    numbers = carray(pointer(job[Job.NUMBERS], M), (count, NUMBERS))
    sums = carray(pointer(job[Job.SUMS], SUMS), count)
    n = added(job, Job.TAKEN, 1)
    while n < last:
        row = rows[n]
        operation = row[Field.OPERATION]
        if operation == Operation.CONVOLVE:
            if row[Field.FRESH] == Fresh.ALL:
                zero_row(M, row[Field.D], row[Field.COUNT])
            sums[n] = convolve(M, T, row, numbers[n], scratch, panel_steps)
        elif operation == Operation.SPREAD:
            sums[n] = spread(M, T, row, numbers[n], scratch, panel_steps)
        elif operation == Operation.TURN:
            lines, columns = row[Field.ROWS], row[Field.COLUMNS]
            for index in range(row[Field.FIRST], row[Field.LAST]):
                to = row[Field.D] + index * columns * row[Field.WIDTH]
                turn(
                    M, to, row[Field.A] + index * lines * columns, lines, columns, row[Field.WIDTH]
                )
        elif operation == Operation.SWAP:
            channels, filters = row[Field.GROUP], row[Field.A_GROUP]
            columns = row[Field.COLUMNS]
            for index in range(row[Field.FIRST], row[Field.LAST]):
                place = index * channels * columns
                swap(M, row[Field.D] + place, row[Field.A] + place, channels, filters, columns)
        elif operation == Operation.GATHER:
            size = row[Field.COLUMNS] * row[Field.WIDTH]
            for index in range(row[Field.FIRST], row[Field.LAST]):
                group, place = index // row[Field.GROUP], index % row[Field.GROUP]
                to = row[Field.D] + place * row[Field.COLUMNS] * row[Field.CHANNELS]
                copy_rows(
                    M, to + group * row[Field.ROWS], row[Field.CHANNELS],
                    row[Field.A] + index * size, row[Field.WIDTH], row[Field.COLUMNS],
                    row[Field.ROWS],
                )  # fmt: skip
        elif operation == Operation.REPEAT:
            for i in range(0, row[Field.COUNT], row[Field.COLUMNS]):
                copy_row(M, row[Field.D] + i, row[Field.A], row[Field.COLUMNS])
        elif operation == Operation.ADD:
            add_row(M, row[Field.D], row[Field.A], row[Field.COUNT])
        elif operation == Operation.SUM:
            sum_columns(
                M, row[Field.D], row[Field.A], row[Field.COUNT], row[Field.COLUMNS], scratch
            )
        elif operation != Operation.FINISH:
            pool(M, row)
        if operation == Operation.TAKE or operation == Operation.FINISH:
            first, length = row[Field.FIRST], row[Field.LAST] - row[Field.FIRST]
            span = row[Field.SPAN]
            sums[n] = finish(M, row, numbers[n], first * span, length * span)
        added(job, Job.DONE, 1)
        n = added(job, Job.TAKEN, 1)


@compiled
def work(
    M: Array, job: Array, helper: int, posted: int, scratch: int, room: int, panel_steps: Array,
    turns: int,
) -> int:  # fmt: skip
    """Do a job, as its caller, helper 0, or as a helper, for this and other jobs that come.

    The caller opens the job, waits for all of its lines, and closes it: afterwards nobody is at it.
    A helper looks for jobs as long as none has come for so many `turns`; see `rows.Watched`.
    """
    seen, left = 0, turns  # one loop for both, so that `do` is compiled once
    is_caller, is_fit = helper == 0, True
    if is_caller:
        replaced(job, Job.OPEN, job[Job.NUMBER])
        left = 1
    while left > 0:
        left -= 1
        if not is_caller:
            if current(job, Job.POSTED) != posted:
                return Watched.POSTED
            number = current(job, Job.OPEN)
            if number == seen or number == 0:
                continue
            seen = number
            added(job, Job.INSIDE, 1)
            # it cannot close from now on
            is_open = current(job, Job.OPEN) == number and helper < job[Job.TOGETHER]
            is_fit = job[Job.ITEMSIZE] == M.itemsize and job[Job.SCRATCH] <= room
            if not is_open or not is_fit:
                added(job, Job.INSIDE, -1)
                if is_open:
                    return Watched.UNFIT
                continue
        do(M, job, scratch, panel_steps)
        if is_caller:
            while current(job, Job.DONE) < job[Job.LAST]:
                pass
            replaced(job, Job.OPEN, 0)
            while current(job, Job.INSIDE) > 0:
                pass
        else:
            added(job, Job.INSIDE, -1)
            left = turns
    return Watched.NOTHING
