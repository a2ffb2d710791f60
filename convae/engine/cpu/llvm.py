"""Vector code that Numba does not generate by itself, in LLVM IR.

The building block of all convolutions is `tiles`: sums of products that stay in registers while
they grow. The others move and add short rows, whose last vector is masked, and transpose.

Numba's cache does not track changes to this file: a compiled caller is rebuilt only when its own
file changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import factorial, log
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from convae.engine.cpu.jit import AVX512
from convae.engine.cpu.offsets import VECTOR_BYTES

LARGEST_TILE = {1: 8, 2: 8, 3: 8, 4: 6} if AVX512 else {1: 6, 2: 3}
"""Rows of a tile by the vectors of its rows, such that sums and a row of B fit into registers."""

MOST_VECTORS = max(LARGEST_TILE)

INTEGER = ir.IntType(64)
FUSED = {"flags": ("contract", "nsz")}  # allows fused multiply-add instructions


class Emitter:
    """Emits LLVM IR that operates on vectors of array elements."""

    def __init__(self, context: Any, builder: Any, element: Any) -> None:
        self.context, self.builder = context, builder
        self.bytes = element.bitwidth // 8
        self.width = VECTOR_BYTES // self.bytes
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
        kinds = [place.type, ir.IntType(32), mask.type, self.vector]
        function = self._function(f"llvm.masked.load.{self._suffix}", self.vector, kinds)
        align = ir.IntType(32)(self.bytes)
        return self.builder.call(function, [place, align, mask, ir.Constant(self.vector, None)])

    def store(self, value: Any, pointer: Any, vector: int = 0, mask: Any = None) -> None:
        """Store one vector of a row, where the mask is on."""
        place = self._at(pointer, vector)
        if mask is None:
            self.builder.store(value, place, align=self.bytes)
            return
        kinds = [self.vector, place.type, ir.IntType(32), mask.type]
        function = self._function(f"llvm.masked.store.{self._suffix}", ir.VoidType(), kinds)
        self.builder.call(function, [value, place, ir.IntType(32)(self.bytes), mask])

    def first(self, count: Any) -> Any:
        """Make a mask that is on for the first `count` elements of a vector."""
        places = ir.VectorType(INTEGER, self.width)
        numbers = ir.Constant(places, list(range(self.width)))
        zeros = ir.Constant(places, None)
        one = self.builder.insert_element(zeros, count, ir.IntType(32)(0))
        limit = self.builder.shuffle_vector(one, zeros, self._lanes([0] * self.width))
        return self.builder.icmp_signed("<", numbers, limit)

    def constant(self, number: float) -> Any:
        """Return a vector of one number."""
        return ir.Constant(self.vector, [number] * self.width)

    def everywhere(self, value: Any) -> Any:
        """Broadcast a scalar to a vector."""
        zeros = ir.Constant(self.vector, None)
        first = self.builder.insert_element(zeros, value, ir.IntType(32)(0))
        return self.builder.shuffle_vector(first, zeros, self._lanes([0] * self.width))

    def shuffle(self, a: Any, b: Any, places: Sequence[int]) -> Any:
        """Shuffle the lanes of two vectors into one."""
        return self.builder.shuffle_vector(a, b, self._lanes(places))

    def loop(self, count: Any, pointers: list[tuple[Any, Any]], sums: list[Any], body: Any) -> Any:
        """Emit a loop of `count`, at least one, calls of `body(pointers, sums)` -> new sums."""
        # each of `pointers` is a pair of a pointer and its step per iteration
        builder = self.builder
        before, turn = builder.block, builder.append_basic_block()
        builder.branch(turn)
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
        done = builder.append_basic_block()
        builder.cbranch(builder.icmp_signed("<", after[0], count), turn, done)
        builder.position_at_end(done)
        return new_sums

    @property
    def _suffix(self) -> str:
        return f"v{self.width}f{8 * self.bytes}.p0"

    def _function(self, name: str, result: Any, arguments: list[Any]) -> Any:
        kind = ir.FunctionType(result, arguments)
        return cgutils.get_or_insert_function(self.builder.module, kind, name)

    def _at(self, pointer: Any, vector: int) -> Any:
        place = self.builder.gep(pointer, [INTEGER(vector * self.width)])
        return self.builder.bitcast(place, self.vector.as_pointer())

    def _lanes(self, places: Sequence[int]) -> Any:
        return ir.Constant(ir.VectorType(ir.IntType(32), self.width), list(places))


def _emit_tile(
    emit: Emitter,
    A_rows: list[Any],
    D_rows: list[Any],
    vectors: int,
    mask: Any,
    steps: Any,
    depth: Any,
    B: Any,
    fresh: Any,
) -> None:
    """Emit one tile of `tiles`; the mask is that of the last vector of its rows."""
    builder = emit.builder
    masks = [None] * (vectors - 1) + [mask]

    def multiply_add(pointers: list[Any], sums: list[Any]) -> list[Any]:
        step = pointers[0]
        a_step = builder.load(step)
        b_step = builder.load(builder.gep(step, [INTEGER(1)]))
        row = builder.gep(B, [b_step])
        row_of_B = [emit.load(row, v, masks[v]) for v in range(vectors)]
        new: list[Any] = []
        for pointer in A_rows:
            a = emit.everywhere(builder.load(builder.gep(pointer, [a_step])))
            for b in row_of_B:
                new.append(builder.fadd(builder.fmul(a, b, **FUSED), sums[len(new)], **FUSED))
        return new

    zeros = [ir.Constant(emit.vector, None)] * (len(A_rows) * vectors)
    sums = emit.loop(depth, [(steps, INTEGER(2))], zeros, multiply_add)
    by_row = [sums[r * vectors : (r + 1) * vectors] for r in range(len(A_rows))]
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
    integer, table = types.intp, types.Array(types.int64, 1, "C")
    ranges = (integer,) * 5
    signature = types.void(
        M, table, *ranges, table, *(integer,) * 4, types.boolean
    )  # fmt: skip

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        M_, T_, d, d_rows, a, a_rows, rows, steps, step, depth, b, columns, fresh = arguments
        emit = Emitter(context, builder, M.dtype)
        corner_D, corner_A, corner_B = (emit.pointer(M_, M, place) for place in (d, a, b))
        D_offsets, A_offsets = (emit.pointer(T_, table, place) for place in (d_rows, a_rows))
        start = emit.pointer(steps, table, step)
        last_row = builder.sub(rows, INTEGER(1))

        def tile(count: int, vectors: int, mask: Any, row: Any, is_rest: bool) -> None:
            indices = [builder.add(row, INTEGER(r)) for r in range(count)]
            if is_rest:  # the last row stands in for those that there are not
                indices = [
                    builder.select(builder.icmp_signed("<", i, last_row), i, last_row)
                    for i in indices
                ]

            def places(corner: Any, offsets: Any) -> list[Any]:
                loaded = [builder.load(builder.gep(offsets, [i])) for i in indices]
                return [builder.gep(corner, [offset]) for offset in loaded]

            both = places(corner_A, A_offsets), places(corner_D, D_offsets)
            _emit_tile(emit, *both, vectors, mask, start, depth, corner_B, fresh)

        def all_rows(vectors: int, mask: Any) -> None:
            largest = LARGEST_TILE[vectors]
            rest = builder.srem(rows, INTEGER(largest))
            whole = builder.sub(rows, rest)
            with cgutils.for_range_slice(builder, INTEGER(0), whole, INTEGER(largest)) as (row, _):
                tile(largest, vectors, mask, row, False)
            sizes = [size for size in (1, 2, 4) if size < largest] + [largest]
            for smaller, size in zip([0, *sizes], sizes, strict=False):
                fits = builder.and_(
                    builder.icmp_signed("<", INTEGER(smaller), rest),
                    builder.icmp_signed("<=", rest, INTEGER(size)),
                )
                with builder.if_then(fits):
                    tile(size, vectors, mask, whole, True)

        for vectors in range(1, MOST_VECTORS + 1):
            low, high = (INTEGER(n * emit.width) for n in (vectors - 1, vectors))
            with builder.if_then(builder.icmp_signed("==", columns, high)):
                all_rows(vectors, None)
            partial = builder.and_(
                builder.icmp_signed("<", low, columns), builder.icmp_signed("<", columns, high)
            )
            with builder.if_then(partial):
                all_rows(vectors, emit.first(builder.sub(columns, low)))
        return context.get_dummy_value()

    return signature, codegen


def _rowwise(emit: Emitter, count: Any, compute: Callable[[Any, Any], None]) -> None:
    """Call `compute(start, mask)` for the vectors of a row; the last one's mask is partial."""
    builder = emit.builder
    rest = builder.srem(count, INTEGER(emit.width))
    whole = builder.sub(count, rest)
    with cgutils.for_range_slice(builder, INTEGER(0), whole, INTEGER(emit.width)) as (start, _):
        compute(start, None)
    with builder.if_then(builder.icmp_signed(">", rest, INTEGER(0))):
        compute(whole, emit.first(rest))


@intrinsic
def copy_row(typing: Any, M: Any, d: Any, a: Any, count: Any) -> Any:
    """Copy `count` elements from a to d."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        M_, d, a, count = arguments
        emit = Emitter(context, builder, M.dtype)
        to, source = emit.pointer(M_, M, d), emit.pointer(M_, M, a)

        def copy(start: Any, mask: Any) -> None:
            value = emit.load(builder.gep(source, [start]), 0, mask)
            emit.store(value, builder.gep(to, [start]), 0, mask)

        _rowwise(emit, count, copy)
        return context.get_dummy_value()

    return types.void(M, types.intp, types.intp, types.intp), codegen


@intrinsic
def add_row(typing: Any, M: Any, d: Any, a: Any, count: Any) -> Any:
    """Add `count` elements at a to those at d."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        M_, d, a, count = arguments
        emit = Emitter(context, builder, M.dtype)
        to, source = emit.pointer(M_, M, d), emit.pointer(M_, M, a)

        def add(start: Any, mask: Any) -> None:
            place = builder.gep(to, [start])
            value = emit.load(builder.gep(source, [start]), 0, mask)
            emit.store(builder.fadd(emit.load(place, 0, mask), value), place, 0, mask)

        _rowwise(emit, count, add)
        return context.get_dummy_value()

    return types.void(M, types.intp, types.intp, types.intp), codegen


@intrinsic
def zero_row(typing: Any, D: Any, d: Any, count: Any) -> Any:
    """Set `count` elements at d to zero."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        D_, d, count = arguments
        emit = Emitter(context, builder, D.dtype)
        to, zeros = emit.pointer(D_, D, d), ir.Constant(emit.vector, None)

        def clear(start: Any, mask: Any) -> None:
            emit.store(zeros, builder.gep(to, [start]), 0, mask)

        _rowwise(emit, count, clear)
        return context.get_dummy_value()

    return types.void(D, types.intp, types.intp), codegen


@intrinsic
def sum_rows(
    typing: Any, M: Any, T: Any, d: Any, a: Any, first: Any, terms: Any, count: Any
) -> Any:
    """Set `count` elements at d to the sum of `terms` rows, at ``a + T[first + q]``."""
    table, integer = types.Array(types.int64, 1, "C"), types.intp

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        M_, T_, d, a, first, terms, count = arguments
        emit = Emitter(context, builder, M.dtype)
        to, source = emit.pointer(M_, M, d), emit.pointer(M_, M, a)
        places = emit.pointer(T_, table, first)

        def add(start: Any, mask: Any) -> None:
            column = builder.gep(source, [start])

            def one(pointers: list[Any], sums: list[Any]) -> list[Any]:
                row = builder.gep(column, [builder.load(pointers[0])])
                return [builder.fadd(sums[0], emit.load(row, 0, mask))]

            zero = ir.Constant(emit.vector, None)
            (total,) = emit.loop(terms, [(places, INTEGER(1))], [zero], one)
            emit.store(total, builder.gep(to, [start]), 0, mask)

        _rowwise(emit, count, add)
        return context.get_dummy_value()

    return types.void(M, table, *(integer,) * 5), codegen


@intrinsic
def scatter_row(typing: Any, M: Any, d: Any, step: Any, a: Any, count: Any) -> Any:
    """Copy `count` elements at a to every `step`-th element from d on."""
    integer = types.intp

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        M_, d, step, a, count = arguments
        emit = Emitter(context, builder, M.dtype)
        to, source = emit.pointer(M_, M, d), emit.pointer(M_, M, a)

        def move(pointers: list[Any], sums: list[Any]) -> list[Any]:
            builder.store(builder.load(pointers[1]), pointers[0])
            return []

        with builder.if_then(builder.icmp_signed(">", count, INTEGER(0))):
            emit.loop(count, [(to, step), (source, INTEGER(1))], [], move)
        return context.get_dummy_value()

    return types.void(M, *(integer,) * 4), codegen


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


EXPONENT = {  # by the bytes of an element: bits of fraction, bias, range, ln 2 in two parts, terms
    4: (23, 127, (-87.0, 88.0), (0.693359375, -2.12194440054690583e-4), 8),
    8: (52, 1023, (-708.0, 709.0), (6.93147180369123816e-01, 1.90821492927058770e-10), 14),
}


def _emit_exponential(emit: Emitter, value: Any) -> Any:
    """Emit e**x of a vector, x limited to what does not overflow."""
    # e**x = 2**n * e**r with n = round(x / ln 2), and Taylor's polynomial for |r| <= ln(2) / 2
    builder, bits = emit.builder, 8 * emit.bytes
    fraction, bias, (low, high), (ln2, rest), terms = EXPONENT[emit.bytes]
    whole_numbers = ir.VectorType(ir.IntType(bits), emit.width)

    def call(name: str, result: Any, argument: Any) -> Any:
        kind = ir.FunctionType(result, [argument.type])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [argument])

    for limit, sign in ((low, "<"), (high, ">")):  # NaN stays
        beyond = builder.fcmp_ordered(sign, value, emit.constant(limit))
        value = builder.select(beyond, emit.constant(limit), value)
    lanes = f"v{emit.width}f{bits}"
    n = call(f"llvm.rint.{lanes}", emit.vector, builder.fmul(value, emit.constant(1 / log(2))))
    for part in (ln2, rest):
        term = builder.fmul(n, emit.constant(part), **FUSED)
        value = builder.fsub(value, term, **FUSED)
    total = emit.constant(1 / factorial(terms))
    for power in reversed(range(terms)):
        total = builder.fmul(total, value, **FUSED)
        total = builder.fadd(total, emit.constant(1 / factorial(power)), **FUSED)
    whole = call(f"llvm.fptosi.sat.v{emit.width}i{bits}.{lanes}", whole_numbers, n)
    splat = ir.Constant(whole_numbers, [bias] * emit.width)
    shift = ir.Constant(whole_numbers, [fraction] * emit.width)
    scale = builder.shl(builder.add(whole, splat), shift)
    return builder.fmul(total, builder.bitcast(scale, emit.vector))


def _emit_slope(emit: Emitter, y: Any, derivative: Sequence[Any]) -> Any:
    """Emit ``f' = p + q*y + r*y**2``, times `below` where y is not positive."""
    builder = emit.builder
    p, q, r, below = derivative
    inner = builder.fadd(builder.fmul(r, y, **FUSED), q, **FUSED)
    curved = builder.fadd(builder.fmul(inner, y, **FUSED), p, **FUSED)
    zero = emit.constant(0.0)
    is_constant = builder.and_(  # 0 * inf is not 0
        builder.fcmp_ordered("==", q, zero), builder.fcmp_ordered("==", r, zero)
    )
    slope = builder.select(is_constant, p, curved)
    is_positive = builder.fcmp_ordered(">", y, zero)
    return builder.select(is_positive, slope, builder.fmul(below, slope))


@intrinsic
def activate_row(
    typing: Any, M: Any, d: Any, b: Any, count: Any, slope: Any, is_sigmoid: Any
) -> Any:
    """Add biases at b to elements at d, then multiply negative ones by the slope, or squash all."""
    integer = types.intp

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        M_, d, b, count, slope, is_sigmoid = arguments
        emit = Emitter(context, builder, M.dtype)
        to, source = emit.pointer(M_, M, d), emit.pointer(M_, M, b)
        slopes, zero, one = emit.everywhere(slope), emit.constant(0.0), emit.constant(1.0)
        is_flat = builder.fcmp_ordered("==", slopes, zero)

        def rectify(start: Any, mask: Any) -> None:
            place = builder.gep(to, [start])
            z = emit.load(place, 0, mask)
            z = builder.fadd(z, emit.load(builder.gep(source, [start]), 0, mask))
            below = builder.select(is_flat, slopes, builder.fmul(slopes, z))  # 0 * -inf is NaN
            is_negative = builder.fcmp_ordered("<", z, zero)
            emit.store(builder.select(is_negative, below, z), place, 0, mask)

        def squash(start: Any, mask: Any) -> None:
            place = builder.gep(to, [start])
            z = emit.load(place, 0, mask)
            z = builder.fadd(z, emit.load(builder.gep(source, [start]), 0, mask))
            power = _emit_exponential(emit, builder.fsub(zero, z))
            emit.store(builder.fdiv(one, builder.fadd(one, power)), place, 0, mask)

        with builder.if_else(is_sigmoid) as (sigmoid, linear):
            with sigmoid:
                _rowwise(emit, count, squash)
            with linear:
                _rowwise(emit, count, rectify)
        return context.get_dummy_value()

    return types.void(M, integer, integer, integer, slope, types.boolean), codegen


@intrinsic
def derive_row(typing: Any, M: Any, d: Any, h: Any, count: Any, derivative: Any) -> Any:
    """Multiply elements at d by the derivative of an activation whose outputs are at h."""
    integer = types.intp

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        M_, d, h, count, numbers = arguments
        emit = Emitter(context, builder, M.dtype)
        to, source = emit.pointer(M_, M, d), emit.pointer(M_, M, h)
        found = [emit.everywhere(n) for n in cgutils.unpack_tuple(builder, numbers)]

        def derive(start: Any, mask: Any) -> None:
            place = builder.gep(to, [start])
            slope = _emit_slope(emit, emit.load(builder.gep(source, [start]), 0, mask), found)
            emit.store(builder.fmul(emit.load(place, 0, mask), slope), place, 0, mask)

        _rowwise(emit, count, derive)
        return context.get_dummy_value()

    return types.void(M, integer, integer, integer, derivative), codegen


@intrinsic
def compare_row(
    typing: Any, M: Any, d: Any, t: Any, count: Any, derivative: Any, scale: Any
) -> Any:
    """Sum the squares of e = y - target over y at d, and replace y by ``scale * e * f'(y)``."""
    integer = types.intp

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        M_, d, t, count, numbers, scale = arguments
        emit = Emitter(context, builder, M.dtype)
        to, source = emit.pointer(M_, M, d), emit.pointer(M_, M, t)
        found = [emit.everywhere(n) for n in cgutils.unpack_tuple(builder, numbers)]
        scales = emit.everywhere(scale)
        total = cgutils.alloca_once_value(builder, emit.constant(0.0))

        def compare(start: Any, mask: Any) -> None:
            place = builder.gep(to, [start])
            y = emit.load(place, 0, mask)
            error = builder.fsub(y, emit.load(builder.gep(source, [start]), 0, mask))
            square = builder.fmul(error, error, **FUSED)
            builder.store(builder.fadd(builder.load(total), square, **FUSED), total)
            slope = _emit_slope(emit, y, found)
            emit.store(builder.fmul(builder.fmul(scales, error), slope), place, 0, mask)

        _rowwise(emit, count, compare)
        lanes = builder.load(total)
        sum_ = builder.extract_element(lanes, ir.IntType(32)(0))
        for lane in range(1, emit.width):
            sum_ = builder.fadd(sum_, builder.extract_element(lanes, ir.IntType(32)(lane)))
        return sum_

    return M.dtype(M, integer, integer, integer, derivative, scale), codegen
