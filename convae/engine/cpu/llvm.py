"""Small matrix products, transposes and linear maps whose sums stay in registers.

Numba's own loops keep sums in memory, so these are written in LLVM IR. Numba's cache does not track
changes to this file: a compiled caller is rebuilt only when its own file changes.

Array arguments are flat. As in BLAS, a matrix A is given by the offset a of its first element and
lda, the elements from one row to the next; rows are `BLOCK_BYTES` long unless stated otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from convae.engine.cpu.jit import AVX512
from convae.engine.cpu.threads import BLOCK_BYTES
from convae.engine.cpu.toom_cook import Matrix, scheme

VECTOR_BYTES = 64
VECTORS = BLOCK_BYTES // VECTOR_BYTES
"""Vectors per row of a tile."""

ROWS = 8 if AVX512 else 3
"""Rows of a tile, such that its sums and a row of B fit into registers."""

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

    def load(self, pointer: Any, vector: int = 0) -> Any:
        """Load one vector of a row."""
        return self.builder.load(self._at(pointer, vector), align=self.bytes)

    def store(self, value: Any, pointer: Any, vector: int = 0) -> None:
        """Store one vector of a row."""
        self.builder.store(value, self._at(pointer, vector), align=self.bytes)

    def _at(self, pointer: Any, vector: int) -> Any:
        place = self.builder.gep(pointer, [INTEGER(vector * self.width)])
        return self.builder.bitcast(place, self.vector.as_pointer())

    def everywhere(self, value: Any) -> Any:
        """Broadcast a scalar to a vector."""
        zeros = ir.Constant(self.vector, None)
        first = self.builder.insert_element(zeros, value, ir.IntType(32)(0))
        return self.builder.shuffle_vector(first, zeros, self._mask([0] * self.width))

    def shuffle(self, a: Any, b: Any, places: Sequence[int]) -> Any:
        """Shuffle the lanes of two vectors into one."""
        return self.builder.shuffle_vector(a, b, self._mask(places))

    def spare(self) -> Any:
        """Allocate a row of zeros that stands in for rows out of range."""
        row = cgutils.alloca_once(self.builder, ir.ArrayType(self.vector, VECTORS), zfill=True)
        return self.builder.bitcast(row, self.vector.element.as_pointer())

    def among(self, places: list[Any], low: Any, high: Any, spare: Any) -> list[Any]:
        """Replace the pointers outside [low, high) by `spare`."""
        chosen = []
        for number, place in enumerate(places):
            exists = self.builder.and_(
                self.builder.icmp_signed("<=", low, INTEGER(number)),
                self.builder.icmp_signed("<", INTEGER(number), high),
            )
            chosen.append(self.builder.select(exists, place, spare))
        return chosen

    def product(self, matrix: Matrix, rows: list[Any]) -> list[Any]:
        """Multiply a constant matrix by rows of one vector each."""
        builder, results = self.builder, []
        for factors in matrix:
            total = ir.Constant(self.vector, None)
            for factor, row in zip(factors, rows, strict=True):
                if factor:
                    number = ir.Constant(self.vector.element, float(factor))
                    term = builder.fmul(row, self.everywhere(number), **FUSED)
                    total = builder.fadd(total, term, **FUSED)
            results.append(total)
        return results

    def _mask(self, places: Sequence[int]) -> Any:
        return ir.Constant(ir.VectorType(ir.IntType(32), self.width), list(places))

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


def _emit_tile(emit: Emitter, rows: int, D: Any, A: Any, B: Any, sizes: dict[str, Any]) -> None:
    """Emit one tile of `multiply`; D, A and B point to its corners."""
    builder = emit.builder
    places = [(row, v) for row in emit.rows(D, sizes["ldd"], rows) for v in range(VECTORS)]

    def pair(corners: list[Any], sums: list[Any]) -> Any:
        columns = [(row, sizes["a_column"]) for row in emit.rows(corners[0], sizes["lda"], rows)]
        return emit.loop(sizes["depth"], [(corners[1], sizes["ldb"]), *columns], sums, multiply_add)

    def multiply_add(pointers: list[Any], sums: list[Any]) -> list[Any]:
        row_of_B = [emit.load(pointers[0], v) for v in range(VECTORS)]
        new: list[Any] = []
        for pointer in pointers[1:]:
            a = emit.everywhere(builder.load(pointer))
            for b in row_of_B:
                new.append(builder.fadd(builder.fmul(a, b, **FUSED), sums[len(new)], **FUSED))
        return new

    corners = [(A, sizes["a_step"]), (B, sizes["b_step"])]
    sums = emit.loop(sizes["pairs"], corners, [ir.Constant(emit.vector, None)] * len(places), pair)
    with builder.if_else(sizes["fresh"]) as (first_time, again):
        with first_time:
            for total, place in zip(sums, places, strict=True):
                emit.store(total, *place)
        with again:
            for total, place in zip(sums, places, strict=True):
                emit.store(builder.fadd(emit.load(*place), total), *place)


@intrinsic
def multiply(
    typing: Any,
    rows: Any,
    D: Any,
    d: Any,
    ldd: Any,
    A: Any,
    a: Any,
    lda: Any,
    a_column: Any,
    a_step: Any,
    B: Any,
    b: Any,
    ldb: Any,
    b_step: Any,
    depth: Any,
    pairs: Any,
    fresh: Any,
) -> Any:
    """Sum the matrix products A @ B over several pairs; overwrite D if `fresh`, else add to it.

    A (pairs, rows, depth); B (pairs, depth, columns) -> D (rows, columns)
    """
    # consecutive pairs are a_step and b_step apart, the elements of a row of A a_column
    integer = types.intp
    D_, A_, B_ = ((array, *(integer,) * count) for array, count in ((D, 2), (A, 4), (B, 3)))
    signature = types.void(integer, *D_, *A_, *B_, integer, integer, types.boolean)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        count, D_, d, ldd, A_, a, lda, a_column, a_step, *others = arguments
        B_, b, ldb, b_step, depth, pairs, fresh = others
        emit = Emitter(context, builder, D.dtype)
        corner_D, corner_A = emit.pointer(D_, D, d), emit.pointer(A_, A, a)
        corner_B = emit.pointer(B_, B, b)
        sizes = {"ldd": ldd, "lda": lda, "ldb": ldb, "a_step": a_step, "b_step": b_step}
        sizes |= {"a_column": a_column, "depth": depth, "pairs": pairs, "fresh": fresh}

        def tile(rows: int, first: Any) -> None:
            D_tile = builder.gep(corner_D, [builder.mul(first, ldd)])
            A_tile = builder.gep(corner_A, [builder.mul(first, lda)])
            _emit_tile(emit, rows, D_tile, A_tile, corner_B, sizes)

        rest = builder.srem(count, INTEGER(ROWS))
        whole = builder.sub(count, rest)
        with cgutils.for_range_slice(builder, INTEGER(0), whole, INTEGER(ROWS)) as (first, _):
            tile(ROWS, first)
        for rows in range(1, ROWS):
            with builder.if_then(builder.icmp_signed("==", rest, INTEGER(rows))):
                tile(rows, whole)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def transpose(typing: Any, D: Any, d: Any, ldd: Any, A: Any, a: Any, lda: Any) -> Any:
    """Transpose a square of A, one vector wide, into D."""
    integer = types.intp

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        D_, d, ldd, A_, a, lda = arguments
        emit = Emitter(context, builder, D.dtype)
        width = emit.width
        rows = [emit.load(row) for row in emit.rows(emit.pointer(A_, A, a), lda, width)]
        half = 1  # swap blocks of 1, 2, 4, ... elements across the diagonal
        while half < width:
            low = [n + width - half if n & half else n for n in range(width)]
            high = [n + width if n & half else n + half for n in range(width)]
            for r in range(width):
                if not r & half:
                    pair = rows[r], rows[r + half]
                    rows[r], rows[r + half] = emit.shuffle(*pair, low), emit.shuffle(*pair, high)
            half *= 2
        for row, place in zip(rows, emit.rows(emit.pointer(D_, D, d), ldd, width), strict=True):
            emit.store(row, place)
        return context.get_dummy_value()

    return types.void(D, integer, integer, A, integer, integer), codegen


@intrinsic(prefer_literal=True)
def to_points(
    typing: Any,
    side: Any,
    kernel: Any,
    stride: Any,
    tile: Any,
    D: Any,
    d: Any,
    ldd: Any,
    A: Any,
    a: Any,
    lda: Any,
    low: Any,
    high: Any,
) -> Any:
    """Multiply a transform matrix by rows of A, those outside [low, high) taken as zero, into D."""
    # The first four arguments, literals, select the matrix: side "K", "V" or "G" of
    # `toom_cook.scheme(kernel, stride, tile)`.
    integer = types.intp
    literals = side, kernel, stride, tile
    matrix = _matrix(*literals)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        D_, d, ldd, A_, a, lda, low, high = arguments[4:]
        emit = Emitter(context, builder, D.dtype)
        zeros = emit.spare()
        given = emit.among(emit.rows(emit.pointer(A_, A, a), lda, len(matrix[0])), low, high, zeros)
        places = emit.rows(emit.pointer(D_, D, d), ldd, len(matrix))
        for v in range(VECTORS):
            results = emit.product(matrix, [emit.load(place, v) for place in given])
            for result, place in zip(results, places, strict=True):
                emit.store(result, place, v)
        return context.get_dummy_value()

    return types.void(*literals, D, *(integer,) * 2, A, *(integer,) * 4), codegen


@intrinsic(prefer_literal=True)
def from_points(
    typing: Any,
    side: Any,
    kernel: Any,
    stride: Any,
    tile: Any,
    D: Any,
    d: Any,
    ldd: Any,
    low: Any,
    high: Any,
    A: Any,
    a: Any,
    lda: Any,
    add: Any,
) -> Any:
    """Multiply a transposed transform matrix by rows of A; set, or add to, rows of D."""
    # As in `to_points`, but [low, high) are the rows of D to write; `add` is a literal too.
    integer = types.intp
    literals = side, kernel, stride, tile
    matrix = [list(column) for column in zip(*_matrix(*literals), strict=True)]

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        D_, d, ldd, low, high, A_, a, lda, _ = arguments[4:]
        emit = Emitter(context, builder, D.dtype)
        given = emit.rows(emit.pointer(A_, A, a), lda, len(matrix[0]))
        places = emit.rows(emit.pointer(D_, D, d), ldd, len(matrix))
        places = emit.among(places, low, high, emit.spare())
        for v in range(VECTORS):
            results = emit.product(matrix, [emit.load(place, v) for place in given])
            for result, place in zip(results, places, strict=True):
                if add.literal_value:
                    result = builder.fadd(result, emit.load(place, v))
                emit.store(result, place, v)
        return context.get_dummy_value()

    return types.void(*literals, D, *(integer,) * 4, A, *(integer,) * 2, add), codegen


def _matrix(side: Any, kernel: Any, stride: Any, tile: Any) -> Matrix:
    """Return the transform matrix selected by the literal arguments."""
    found = scheme(kernel.literal_value, stride.literal_value, tile.literal_value)
    matrix: Matrix = getattr(found, side.literal_value)
    return matrix
