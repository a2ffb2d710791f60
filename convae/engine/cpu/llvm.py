"""Vector code that Numba does not generate by itself, in LLVM IR.

The building block of all convolutions is `tiles`: sums of products that stay in registers while
they grow; the last vector of a row is masked. `passes` has the code for single rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise, product
from typing import Any, TypeAlias

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from convae.engine.cpu.jit import AVX512
from convae.engine.cpu.machine import ARRANGED, CHAINS, RUN, VECTOR_BYTES

LARGEST_TILE = {1: 8, 2: 8, 3: 8, 4: 6} if AVX512 else {1: 6, 2: 3}
"""Rows of a tile by the vectors of its rows, such that sums and a row of B fit into registers."""

MOST_VECTORS = max(LARGEST_TILE)

RUNS = 4
"""Runs of a tile of one vector: four times as many rows, with few registers for their addresses."""

GROUPS = types.intp, types.intp, types.boolean
"""Further arguments where there are groups."""

INTEGER = ir.IntType(64)
FUSED = {"flags": ("contract", "nsz")}  # allows fused multiply-add instructions


class Emitter:
    """Emits LLVM IR that operates on vectors of array elements, or on parts of such vectors."""

    def __init__(self, context: Any, builder: Any, element: Any, part: int = 1) -> None:
        self.context, self.builder = context, builder
        self.bytes = element.bitwidth // 8
        self.width = VECTOR_BYTES // self.bytes // part
        self.vector = ir.VectorType(context.get_value_type(element), self.width)

    def pointer(self, array: Any, kind: Any, offset: Any) -> Any:
        """Return a pointer to an element of a flat array."""
        data = cgutils.create_struct_proxy(kind)(self.context, self.builder, value=array).data
        return self.builder.gep(data, [offset])

    def rows(self, pointer: Any, step: Any, count: int) -> list[Any]:
        """Return pointers to the starts of consecutive rows."""
        multiples = [self.builder.mul(step, INTEGER(row)) for row in range(count)]
        return [self.builder.gep(pointer, [multiple]) for multiple in multiples]

    def load(self, pointer: Any, vector: int = 0, mask: Any = None) -> Any:
        """Load one vector of a row; where a mask is off, zeros."""
        place = self._at(pointer, vector)
        if mask is None:
            return self.builder.load(place, align=self.bytes)
        arguments = [place, ir.IntType(32)(self.bytes), mask, ir.Constant(self.vector, None)]
        return self.call(f"llvm.masked.load.{self._suffix}", self.vector, arguments)

    def store(self, value: Any, pointer: Any, vector: int = 0, mask: Any = None) -> None:
        """Store one vector of a row, where the mask is on."""
        place = self._at(pointer, vector)
        if mask is None:
            self.builder.store(value, place, align=self.bytes)
            return
        arguments = [value, place, ir.IntType(32)(self.bytes), mask]
        self.call(f"llvm.masked.store.{self._suffix}", ir.VoidType(), arguments)

    def first(self, count: Any) -> Any:
        """Make a mask that is on for the first `count` elements of a vector."""
        places = ir.VectorType(INTEGER, self.width)
        numbers = ir.Constant(places, list(range(self.width)))
        return self.builder.icmp_signed("<", numbers, self.everywhere(count))

    def constant(self, number: float) -> Any:
        """Return a vector of one number."""
        return ir.Constant(self.vector, [number] * self.width)

    def everywhere(self, value: Any) -> Any:
        """Broadcast a scalar to a vector."""
        zeros = ir.Constant(ir.VectorType(value.type, self.width), None)
        first = self.builder.insert_element(zeros, value, ir.IntType(32)(0))
        return self.builder.shuffle_vector(first, zeros, self._lanes([0] * self.width))

    def multiples(self, group: Any, step: Any) -> Any:
        """Return lanes for `permute`: 0 for the first `group`, `step` for the next, and so on."""
        kind = ir.VectorType(ir.IntType(8 * self.bytes), self.width)
        lanes = ir.Constant(kind, None)
        for n in range(self.width):
            lane = self.builder.mul(self.builder.sdiv(INTEGER(n), group), step)
            if self.bytes < 8:
                lane = self.builder.trunc(lane, kind.element)
            lanes = self.builder.insert_element(lanes, lane, ir.IntType(32)(n))
        return lanes

    def remainder(self, number: Any, divisor: Any) -> Any:
        """Return what dividing whole numbers leaves; floating point spares addresses' registers."""
        both = (self.builder.sitofp(n, ir.DoubleType()) for n in (number, divisor))
        quotient = self.builder.fptosi(self.builder.fdiv(*both), INTEGER)
        return self.builder.sub(number, self.builder.mul(quotient, divisor))

    def moved(self, lanes: Any, distance: Any) -> Any:
        """Return lanes for `permute` that are so much further."""
        if self.bytes < 8:
            distance = self.builder.trunc(distance, lanes.type.element)
        return self.builder.add(lanes, self.everywhere(distance))

    def permute(self, value: Any, lanes: Any) -> Any:
        """Arrange a vector's elements as lanes in a register say, which AVX-512 has code for."""
        name = {4: "sf", 8: "df"}[self.bytes]
        return self.call(f"llvm.x86.avx512.permvar.{name}.512", self.vector, [value, lanes])

    def shuffle(self, a: Any, b: Any, places: Sequence[int]) -> Any:
        """Shuffle the lanes of two vectors into one."""
        return self.builder.shuffle_vector(a, b, self._lanes(places))

    def loop(self, count: Any, pointers: list[tuple[Any, Any]], sums: list[Any], body: Any) -> Any:
        """Emit a loop of `count` calls of `body(pointers, sums)` -> new sums."""
        # each of `pointers` is a pair of a pointer and its step per iteration
        builder = self.builder
        before, turn = builder.block, builder.append_basic_block()
        done = builder.append_basic_block()
        builder.cbranch(builder.icmp_signed(">", count, INTEGER(0)), turn, done)
        builder.position_at_end(turn)
        first = [INTEGER(0), *(pointer for pointer, _ in pointers), *sums]
        now = [builder.phi(value.type) for value in first]
        index, *rest = now
        places, now_sums = rest[: len(pointers)], rest[len(pointers) :]
        new_sums = body(places, now_sums)
        moved = [builder.gep(p, [step]) for p, (_, step) in zip(places, pointers, strict=True)]
        after = [builder.add(index, INTEGER(1)), *moved, *new_sums]
        for phi, start, value in zip(now, first, after, strict=True):
            phi.add_incoming(start, before)
            phi.add_incoming(value, builder.block)
        last = builder.block
        builder.cbranch(builder.icmp_signed("<", after[0], count), turn, done)
        builder.position_at_end(done)
        found = [builder.phi(value.type) for value in sums]
        for phi, start, value in zip(found, sums, new_sums, strict=True):
            phi.add_incoming(start, before)
            phi.add_incoming(value, last)
        return found

    @property
    def _suffix(self) -> str:
        return f"v{self.width}f{8 * self.bytes}.p0"

    def call(self, name: str, result: Any, arguments: list[Any]) -> Any:
        """Call one of LLVM's intrinsics."""
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, arguments)

    def _at(self, pointer: Any, vector: int) -> Any:
        place = self.builder.gep(pointer, [INTEGER(vector * self.width)])
        return self.builder.bitcast(place, self.vector.as_pointer())

    def _lanes(self, places: Sequence[int]) -> Any:
        return ir.Constant(ir.VectorType(ir.IntType(32), self.width), list(places))


Factor: TypeAlias = Callable[[Any, int], Any]
"""Loads, by a pointer to a number of A, what a vector of a row of B is multiplied by."""

At: TypeAlias = Callable[[Any], tuple[Any, Factor]]
"""Tells, for a step in A, how far to go for it from where a row begins, and what loads there."""


def _always(factor: Factor) -> At:
    return lambda step: (step, factor)


def _alone(emit: Emitter) -> At:
    """Load one number for all of a vector."""
    return _always(lambda pointer, _: emit.everywhere(emit.builder.load(pointer)))


def _emit_tile(
    emit: Emitter,
    A_rows: list[tuple[Any, list[Any]]],
    D_rows: list[Any],
    vectors: int,
    mask: Any,
    steps: Any,
    depth: Any,
    chains: list[tuple[int, Any]],
    B: Any,
    fresh: Any,
    at: At,
) -> None:
    """Emit one tile of `tiles`; the mask is that of the last vector of its rows.

    Rows of A are pointers, each to the first of a run, and the distances of its rows, and of more
    for `chains`: of how many steps, and how many there are.
    """
    builder, run = emit.builder, len(D_rows) // len(A_rows)
    masks = [None] * (vectors - 1) + [mask]

    def multiply_add(together: int, pointers: list[Any], sums: list[Any]) -> list[Any]:
        def entry(n: int) -> Any:
            return builder.load(builder.gep(pointers[0], [INTEGER(n)]))

        def row_of_B(step: int) -> list[Any]:
            row = builder.gep(B, [entry(2 * step + 1)])
            return [emit.load(row, v, masks[v]) for v in range(vectors)]

        a_step, factor = at(entry(0))
        rows_of_B = [row_of_B(step) for step in range(together)]
        new = list(sums)
        for number, (pointer, distances) in enumerate(A_rows):
            place = builder.gep(pointer, [a_step])
            for n, distance in enumerate(distances[: run + together - 1]):
                row = builder.gep(place, [distance])
                factors = [factor(row, v) for v in range(vectors)]
                for step, v in product(
                    range(max(0, n - run + 1), min(n + 1, together)), range(vectors)
                ):
                    which = (number * run + n - step) * vectors + v
                    term = builder.fmul(factors[v], rows_of_B[step][v], **FUSED)
                    new[which] = builder.fadd(term, new[which], **FUSED)
        return new

    sums = [ir.Constant(emit.vector, None)] * (len(D_rows) * vectors)
    for together, number in chains:
        body = partial(multiply_add, together)
        sums = emit.loop(number, [(steps, INTEGER(2 * together))], sums, body)
        steps = builder.gep(steps, [builder.mul(number, INTEGER(2 * together))])
        depth = builder.sub(depth, builder.mul(number, INTEGER(together)))
    sums = emit.loop(depth, [(steps, INTEGER(2))], sums, partial(multiply_add, 1))
    by_row = [sums[r * vectors : (r + 1) * vectors] for r in range(len(D_rows))]
    with builder.if_else(fresh) as (first_time, again):
        with first_time:
            for row, place in zip(by_row, D_rows, strict=True):
                for v in range(vectors):
                    emit.store(row[v], place, v, masks[v])
        with again:
            for v in range(vectors):  # all loads before the stores: rows may be given twice
                found = [emit.load(place, v, masks[v]) for place in D_rows]
                for row, place, old in zip(by_row, D_rows, found, strict=True):
                    emit.store(builder.fadd(old, row[v]), place, v, masks[v])


@intrinsic
def tiles(
    typing: Any,
    M: Any,
    T: Any,
    d: Any,
    d_rows: Any,
    a: Any,
    a_rows: Any,
    rows: Any,
    steps: Any,
    step: Any,
    depth: Any,
    b: Any,
    columns: Any,
    fresh: Any,
) -> Any:
    """Sum products of numbers and rows of an array M; overwrite what is at d if `fresh`, else add.

    ``M[d + T[d_rows + r] + j] (+)= sum over q of M[a + T[a_rows + r] + p] * M[b + m + j]`` with
    ``p, m = steps[step + 2 * q], steps[step + 2 * q + 1]``, for `rows` rows r, `depth` steps q,
    and j below `columns`, which are at most `MOST_VECTORS` vectors. Rows and depth are over 0.
    """

    def emit_all(emit: Emitter, columns: Any, rows: Callable[..., None]) -> None:
        builder = emit.builder
        for vectors in range(1, MOST_VECTORS + 1):
            low, high = (INTEGER(n * emit.width) for n in (vectors - 1, vectors))
            with builder.if_then(builder.icmp_signed("==", columns, high)):
                rows(vectors, None, _alone(emit))
            partial = builder.and_(
                builder.icmp_signed("<", low, columns), builder.icmp_signed("<", columns, high)
            )
            with builder.if_then(partial):
                rows(vectors, emit.first(builder.sub(columns, low)), _alone(emit))

    return _tiles(M, emit_all, (1, 2, 4, 8))


@intrinsic
def grouped_tiles(
    typing: Any,
    M: Any,
    T: Any,
    d: Any,
    d_rows: Any,
    a: Any,
    a_rows: Any,
    rows: Any,
    steps: Any,
    step: Any,
    depth: Any,
    b: Any,
    columns: Any,
    fresh: Any,
    A_group: Any,
    group: Any,
    is_whole: Any,
) -> Any:
    """Do what `tiles` does for groups of few columns side by side, for each with its own numbers.

    Groups of `group` columns have numbers `A_group` apart: column j is multiplied by
    ``M[a + T[a_rows + r] + p + j // group * A_group]``. A vector is as many groups as fit into it
    with their numbers. There is at most one vector, or `MOST_VECTORS` where groups have one channel
    and one column. Without AVX-512, they have as many channels as columns, which divide a vector.
    A whole vector may be read from where a row's groups begin if `is_whole`, else no more than all
    of their numbers.
    """
    return _grouped(M, 1)


@intrinsic
def grouped_runs(
    typing: Any,
    M: Any,
    T: Any,
    d: Any,
    d_rows: Any,
    a: Any,
    a_rows: Any,
    runs: Any,
    steps: Any,
    step: Any,
    depth: Any,
    b: Any,
    columns: Any,
    fresh: Any,
    A_group: Any,
    group: Any,
    is_whole: Any,
    D_distance: Any,
    A_distance: Any,
    threes: Any,
    pairs: Any,
) -> Any:
    """Do what `grouped_tiles` does, for runs of `RUN` rows at even distances in D and in A.

    So many `threes` of steps come first, then so many `pairs`, whose steps are as far in A from
    each other as rows of a run are: a row's second number is the next row's first one, and loaded
    once.
    """
    return _grouped(M, RUN)


def _grouped(M: Any, run: int) -> Any:
    """Return signature and code of `grouped_tiles` and `grouped_runs`."""

    def emit_all(
        emit: Emitter,
        columns: Any,
        rows: Callable[..., None],
        A_group: Any,
        group: Any,
        is_whole: Any,
    ) -> None:
        builder = emit.builder

        def even(size: int, mask: Any) -> At:
            def factor(pointer: Any, vector: int) -> Any:
                begins = [n % size == 0 for n in range(emit.width)]
                bits = ir.Constant(ir.VectorType(ir.IntType(1), emit.width), begins)
                inside = bits if mask is None else builder.and_(mask, bits)
                found = emit.load(pointer, vector, inside)  # no more: A may end there
                return emit.shuffle(found, found, [n // size * size for n in range(emit.width)])

            return _always(factor)

        some, others = emit.first(columns), ir.Constant(ir.IntType(1), 1)
        half = Emitter(emit.context, builder, M.dtype, 2)
        sizes = [2**n for n in range(emit.width.bit_length())]
        if AVX512:
            sizes = [1, half.width, emit.width]
        for size in sizes:
            is_size = [builder.icmp_signed("==", n, INTEGER(size)) for n in (A_group, group)]
            is_this = builder.and_(*is_size)
            others = builder.and_(others, builder.not_(is_this))
            if size == 1:  # without a mask, where several vectors may pass together
                are_most = builder.icmp_signed("==", columns, INTEGER(MOST_VECTORS * emit.width))
                with builder.if_then(builder.and_(is_this, are_most)):
                    rows(MOST_VECTORS, None, even(size, None))
                is_this = builder.and_(is_this, builder.not_(are_most))
            with builder.if_then(is_this):
                if size == emit.width:
                    rows(1, some, _alone(emit))
                elif AVX512 and size == half.width:
                    rows(1, half.first(columns), _alone(half), half)
                else:
                    rows(1, some, even(size, some))
        if not AVX512:
            return
        before = builder.sub(builder.sdiv(columns, group), INTEGER(1))
        last = builder.mul(before, A_group)  # group's first number
        lanes = emit.multiples(group, A_group)

        def permuted(is_whole: bool) -> At:
            def at(step: Any) -> tuple[Any, Factor]:
                channel = emit.remainder(step, A_group)
                these = emit.moved(lanes, channel)
                read = emit.first(builder.add(builder.add(last, channel), INTEGER(1)))

                def factor(pointer: Any, _: int) -> Any:
                    return emit.permute(emit.load(pointer, 0, None if is_whole else read), these)

                return builder.sub(step, channel), factor  # where groups begin, vectors may, too

            return at

        with builder.if_then(builder.and_(others, is_whole)):
            rows(1, some, permuted(True), longest=ARRANGED)
        with builder.if_then(builder.and_(others, builder.not_(is_whole))):
            rows(1, some, permuted(False), longest=ARRANGED)

    return _tiles(M, emit_all, () if run > 1 else (3,), run, GROUPS)


def _tiles(
    M: Any,
    emit_all: Callable[..., None],
    lesser: Sequence[int],
    run: int = 1,
    more: tuple[Any, ...] = (),
) -> Any:
    """Return signature and code of `tiles`, and of those with `more` arguments.

    Rows that are left over are a tile of so many of `lesser` rows, if there are no more, else of as
    many as others. Where they are runs of several, the last arguments are the distances in a run,
    in D and in A, and how many of `CHAINS` there are.
    """
    integer, table = types.intp, types.Array(types.int64, 1, "C")
    others = more + (integer,) * (2 + len(CHAINS) if run > 1 else 0)
    signature = types.void(
        M, table, *(integer,) * 5, table, *(integer,) * 4, types.boolean, *others
    )

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        M_, T_, d, d_rows, a, a_rows, rows, steps, step, depth, b, columns, fresh, *rest = arguments
        emit = Emitter(context, builder, M.dtype)
        corner_D, corner_A, corner_B = (emit.pointer(M_, M, place) for place in (d, a, b))
        D_offsets, A_offsets = (emit.pointer(T_, table, place) for place in (d_rows, a_rows))
        start = emit.pointer(steps, table, step)
        last_row = builder.sub(rows, INTEGER(1))
        D_distance, A_distance, *numbers = rest[len(more) :] if run > 1 else [INTEGER(0)] * 2
        chains = list(zip(CHAINS, numbers, strict=False))  # of single rows there are none
        D_distances = [builder.mul(D_distance, INTEGER(n)) for n in range(run)]
        A_distances = [builder.mul(A_distance, INTEGER(n)) for n in range(run + max(CHAINS) - 1)]

        def tile(
            emit: Emitter, count: int, vectors: int, mask: Any, row: Any, at: At, chains: Any
        ) -> None:
            indices = [builder.add(row, INTEGER(r)) for r in range(count)]
            indices = [  # the last row stands in for those that there are not
                builder.select(builder.icmp_signed("<", i, last_row), i, last_row) for i in indices
            ]

            def places(corner: Any, offsets: Any) -> list[Any]:
                loaded = [builder.load(builder.gep(offsets, [i])) for i in indices]
                return [builder.gep(corner, [offset]) for offset in loaded]

            A_rows = [(pointer, A_distances) for pointer in places(corner_A, A_offsets)]
            D_rows = [
                builder.gep(pointer, [distance])
                for pointer in places(corner_D, D_offsets)
                for distance in D_distances
            ]
            _emit_tile(
                emit, A_rows, D_rows, vectors, mask, start, depth, chains, corner_B, fresh, at
            )

        def all_rows(
            vectors: int, mask: Any, at: At, emit: Emitter = emit, longest: int = max(CHAINS)
        ) -> None:
            largest = LARGEST_TILE[vectors] if run == 1 else RUNS // vectors
            these = [(n, number) for n, number in chains if n <= longest]
            # columns that are not whole vectors are few: not worth as much code
            fewer = lesser if mask is None else lesser[-2:-1] or lesser
            sizes = [0, *(size for size in fewer if size < largest)]
            rest = builder.srem(rows, INTEGER(largest))
            whole = builder.sub(rows, rest)
            are_few = builder.icmp_signed("<=", rest, INTEGER(sizes[-1]))
            end, step = builder.select(are_few, whole, rows), INTEGER(largest)
            with cgutils.for_range_slice(builder, INTEGER(0), end, step) as (row, _):
                tile(emit, largest, vectors, mask, row, at, these)
            for smaller, size in pairwise(sizes):
                fits = builder.and_(
                    builder.icmp_signed("<", INTEGER(smaller), rest),
                    builder.icmp_signed("<=", rest, INTEGER(size)),
                )
                with builder.if_then(fits):
                    tile(emit, size, vectors, mask, whole, at, these)

        emit_all(emit, columns, all_rows, *rest[: len(more)])
        return context.get_dummy_value()

    return signature, codegen


def _entry(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    data = cgutils.create_struct_proxy(kind)(context, builder, value=array).data
    return builder.gep(data, [index])


@intrinsic
def added(typing: Any, counters: Any, index: Any, amount: Any) -> Any:
    """Add to a counter that threads share; returns what it was."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, index, amount = arguments
        entry = _entry(context, builder, counters, array, index)
        return builder.atomic_rmw("add", entry, amount, "seq_cst")

    return types.intp(counters, types.intp, types.intp), codegen


@intrinsic
def current(typing: Any, counters: Any, index: Any) -> Any:
    """Read a counter that threads share."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        entry = _entry(context, builder, counters, *arguments)
        return builder.load_atomic(entry, "seq_cst", 8)

    return types.intp(counters, types.intp), codegen


@intrinsic
def replaced(typing: Any, counters: Any, index: Any, value: Any) -> Any:
    """Write a counter that threads share; returns what it was."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, index, value = arguments
        entry = _entry(context, builder, counters, array, index)
        return builder.atomic_rmw("xchg", entry, value, "seq_cst")

    return types.intp(counters, types.intp, types.intp), codegen


@intrinsic
def pointer(typing: Any, address: Any, like: Any) -> Any:
    """Return a pointer to elements like those of an array."""
    kind = types.CPointer(like.dtype)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(kind))

    return kind(types.intp, like), codegen


@intrinsic
def transpose(
    typing: Any, M: Any, d: Any, ldd: Any, a: Any, lda: Any, rows: Any, columns: Any
) -> Any:
    """Transpose a square at a, one vector wide, to d; beyond its `rows`, the last one again.

    Beyond its `columns`, there will be rows of zeros.
    """
    integer = types.intp

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        M_, d, ldd, a, lda, count, columns = arguments
        emit = Emitter(context, builder, M.dtype)
        width, mask = emit.width, emit.first(columns)
        corner, last = emit.pointer(M_, M, a), builder.sub(count, INTEGER(1))
        rows = []
        for r in range(width):
            inside = builder.icmp_signed("<", INTEGER(r), last)
            place = builder.mul(builder.select(inside, INTEGER(r), last), lda)
            rows.append(emit.load(builder.gep(corner, [place]), 0, mask))
        half = 1  # swap blocks of 1, 2, 4, ... elements across the diagonal
        while half < width:
            low = [n + width - half if n & half else n for n in range(width)]
            high = [n + width if n & half else n + half for n in range(width)]
            for r in range(width):
                if not r & half:
                    pair = rows[r], rows[r + half]
                    rows[r], rows[r + half] = emit.shuffle(*pair, low), emit.shuffle(*pair, high)
            half *= 2
        for row, place in zip(rows, emit.rows(emit.pointer(M_, M, d), ldd, width), strict=True):
            emit.store(row, place)
        return context.get_dummy_value()

    return types.void(M, *(integer,) * 6), codegen
