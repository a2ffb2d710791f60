"""Vector code for single rows: to move, add and sum them, and what is behind a product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import factorial, log
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from convae.engine.cpu.llvm import FUSED, INTEGER, Emitter


def _rowwise(emit: Emitter, count: Any, compute: Callable[[Any, Any], None]) -> None:
    """Call `compute(start, mask)` for the vectors of a row; the last one's mask is partial."""
    builder = emit.builder
    rest = builder.srem(count, INTEGER(emit.width))
    whole = builder.sub(count, rest)
    with cgutils.for_range_slice(builder, INTEGER(0), whole, INTEGER(emit.width)) as (start, _):
        compute(start, None)
    with builder.if_then(builder.icmp_signed(">", rest, INTEGER(0))):
        compute(whole, emit.first(rest))


def _change(
    emit: Emitter, row: Any, other: Any, count: Any, change: Callable[[Any, Any], Any]
) -> None:
    """Replace the vectors of a row by `change(its own, those of another)`."""
    builder = emit.builder

    def compute(start: Any, mask: Any) -> None:
        place = builder.gep(row, [start])
        own = emit.load(place, 0, mask)
        found = emit.load(builder.gep(other, [start]), 0, mask)
        emit.store(change(own, found), place, 0, mask)

    _rowwise(emit, count, compute)


@intrinsic
def copy_row(typing: Any, M: Any, d: Any, a: Any, count: Any) -> Any:
    """Copy `count` elements from a to d."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        M_, d, a, count = arguments
        emit = Emitter(context, builder, M.dtype)
        to, source = emit.pointer(M_, M, d), emit.pointer(M_, M, a)

        _change(emit, to, source, count, lambda own, other: other)
        return context.get_dummy_value()

    return types.void(M, types.intp, types.intp, types.intp), codegen


@intrinsic
def copy_rows(
    typing: Any, M: Any, d: Any, d_step: Any, a: Any, a_step: Any, rows: Any, columns: Any
) -> Any:
    """Copy rows of `columns` elements from a to d, which begin at even steps."""
    integer = types.intp

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        M_, d, d_step, a, a_step, rows, columns = arguments
        emit = Emitter(context, builder, M.dtype)
        to, source = emit.pointer(M_, M, d), emit.pointer(M_, M, a)

        def compute(start: Any, mask: Any) -> None:
            def move(pointers: list[Any], sums: list[Any]) -> list[Any]:
                emit.store(emit.load(pointers[1], 0, mask), pointers[0], 0, mask)
                return []

            starts = [(builder.gep(p, [start]), n) for p, n in ((to, d_step), (source, a_step))]
            emit.loop(rows, starts, [], move)

        _rowwise(emit, columns, compute)
        return context.get_dummy_value()

    return types.void(M, *(integer,) * 6), codegen


@intrinsic
def add_row(typing: Any, M: Any, d: Any, a: Any, count: Any) -> Any:
    """Add `count` elements at a to those at d."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        M_, d, a, count = arguments
        emit = Emitter(context, builder, M.dtype)
        to, source = emit.pointer(M_, M, d), emit.pointer(M_, M, a)

        _change(emit, to, source, count, builder.fadd)
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
def pool_row(
    typing: Any, M: Any, d: Any, s: Any, a: Any, count: Any, number: Any, is_pool: Any,
    is_unpool: Any,
) -> Any:  # fmt: skip
    """Pool elements at a, those of a number in their windows, and switches at s.

    To pool is to write to d what is larger than there, and to s its number. Otherwise d takes those
    whose switches are the number; others stay as they are, or become zeros, to unpool.
    """
    integer, flag = types.intp, types.boolean

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        M_, d, s, a, count, number, is_pool, is_unpool = arguments
        emit = Emitter(context, builder, M.dtype)
        to, switches, source = (emit.pointer(M_, M, place) for place in (d, s, a))
        numbers = emit.everywhere(builder.sitofp(number, emit.vector.element))
        is_kept = emit.everywhere(builder.not_(is_unpool))
        is_first = builder.and_(
            is_kept, emit.everywhere(builder.icmp_signed("==", number, INTEGER(0)))
        )
        is_pool = emit.everywhere(is_pool)

        def compute(start: Any, mask: Any) -> None:
            places = [builder.gep(place, [start]) for place in (to, switches, source)]
            old, switch, new = (emit.load(place, 0, mask) for place in places)
            is_nan = builder.fcmp_unordered("uno", new, new)
            is_larger = builder.or_(  # NaN is the largest
                builder.fcmp_ordered(">", new, old),
                builder.and_(is_nan, builder.fcmp_ordered("ord", old, old)),
            )
            is_it = builder.fcmp_ordered("==", switch, numbers)
            is_it = builder.or_(is_first, builder.select(is_pool, is_larger, is_it))
            other = builder.select(is_kept, old, emit.constant(0.0))
            emit.store(builder.select(is_it, new, other), places[0], 0, mask)
            chosen = builder.select(builder.and_(is_pool, is_it), numbers, switch)
            emit.store(chosen, places[1], 0, mask)

        _rowwise(emit, count, compute)
        return context.get_dummy_value()

    return types.void(M, *(integer,) * 5, flag, flag), codegen


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

    for limit, sign in ((low, "<"), (high, ">")):  # NaN stays
        beyond = builder.fcmp_ordered(sign, value, emit.constant(limit))
        value = builder.select(beyond, emit.constant(limit), value)
    lanes = f"v{emit.width}f{bits}"
    n = emit.call(
        f"llvm.rint.{lanes}", emit.vector, [builder.fmul(value, emit.constant(1 / log(2)))]
    )
    for part in (ln2, rest):
        term = builder.fmul(n, emit.constant(part), **FUSED)
        value = builder.fsub(value, term, **FUSED)
    total = emit.constant(1 / factorial(terms))
    for power in reversed(range(terms)):
        total = builder.fmul(total, value, **FUSED)
        total = builder.fadd(total, emit.constant(1 / factorial(power)), **FUSED)
    whole = emit.call(f"llvm.fptosi.sat.v{emit.width}i{bits}.{lanes}", whole_numbers, [n])
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

        def rectify(own: Any, bias: Any) -> Any:
            z = builder.fadd(own, bias)
            below = builder.select(is_flat, slopes, builder.fmul(slopes, z))  # 0 * -inf is NaN
            return builder.select(builder.fcmp_ordered("<", z, zero), below, z)

        def squash(own: Any, bias: Any) -> Any:
            power = _emit_exponential(emit, builder.fsub(zero, builder.fadd(own, bias)))
            return builder.fdiv(one, builder.fadd(one, power))

        with builder.if_else(is_sigmoid) as (sigmoid, linear):
            with sigmoid:
                _change(emit, to, source, count, squash)
            with linear:
                _change(emit, to, source, count, rectify)
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

        def derive(own: Any, y: Any) -> Any:
            return builder.fmul(own, _emit_slope(emit, y, found))

        _change(emit, to, source, count, derive)
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

        def compare(y: Any, wanted: Any) -> Any:
            error = builder.fsub(y, wanted)
            square = builder.fmul(error, error, **FUSED)
            builder.store(builder.fadd(builder.load(total), square, **FUSED), total)
            return builder.fmul(builder.fmul(scales, error), _emit_slope(emit, y, found))

        _change(emit, to, source, count, compare)
        lanes = builder.load(total)
        sum_ = builder.extract_element(lanes, ir.IntType(32)(0))
        for lane in range(1, emit.width):
            sum_ = builder.fadd(sum_, builder.extract_element(lanes, ir.IntType(32)(lane)))
        return sum_

    return M.dtype(M, integer, integer, integer, derivative, scale), codegen
