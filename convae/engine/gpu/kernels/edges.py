"""Compile-time constants of `edge_c.cu`, `edge_h.cu` and `edge_g.cu`: how they divide the work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import ceil, inf, prod
from typing import Any

from convae.engine.gpu import kernels
from convae.engine.program import Problem

LEAST_PRODUCTS = 1 << 24
"""Products of a problem below which a launch takes longer than the work, whatever does it."""

MOST_ELEMENTS = 128
"""Elements of a filter for which a warp has registers."""

MOST_BYTES = 110 << 10
"""Shared memory of a block, of which a multiprocessor of sm_90 has room for two."""

AT_ONCE = 264
"""Blocks that run at a time, two for each multiprocessor of a large card."""

EXAMPLES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
"""How many examples a box may have."""

MOST_POSITIONS = 1024
"""Output positions of a box of c and g."""

LANES_SUMS = 48
"""Sums of g for which a lane has registers."""

OVERHEAD = 512
"""What a box costs whatever its size, in the units of `edge_of`."""

FEWER = 0.002
"""What a further box counts even where all run at once, of a round of boxes."""

WARPS = kernels.THREADS // 32


@dataclass(frozen=True)
class Edge:
    """How a problem is divided among blocks, which go from box to box.

    Parameters
    ----------
    examples : int
        Examples of a box.
    sides : tuple of 3 ints
        Output positions of a box of c and g, repeats of the stride of one of h, along each axis.
    boxes : int
        Boxes of a batch.
    shared_bytes : int
        Shared memory of a block.
    """

    examples: int
    sides: tuple[int, ...]
    boxes: int
    shared_bytes: int


@dataclass(frozen=True)
class Shares:
    """How the warps of a block divide a g; the rest of them divides the positions.

    Parameters
    ----------
    width : int
        Neighbouring filters that a lane reads at once.
    filter_blocks, row_blocks : int
        Warps among which filters and elements are divided.
    rows : int
        Elements of a warp, in sixteens.
    """

    width: int
    filter_blocks: int
    rows: int
    row_blocks: int

    @property
    def filters(self) -> int:
        """Filters of a block."""
        return 8 * self.width * self.filter_blocks


def suits_edges(problem: Problem, room: int = MOST_BYTES) -> bool:
    """Tell whether they cover a problem on a card with `room` bytes of shared memory a block."""
    if not kernels.suits_products(problem):
        return False
    geometry, bias = problem.geometry, problem.shape("bias")
    channels, filters = kernels.channels_and_filters(problem)
    is_shared = geometry.groups == prod(geometry.tile) == 1 and (bias is None or len(bias) == 1)
    if not is_shared or channels > kernels.NARROW or _elements(problem) > MOST_ELEMENTS:
        return False
    is_large = kernels.examples(problem) * geometry.macs(channels, filters) >= LEAST_PRODUCTS
    return is_large and filters % _vector(problem) == 0 and edge_of(problem, room) is not None


def edge_constants(problem: Problem, tensor: int, room: int = MOST_BYTES) -> dict[str, Any]:
    """Return the constants of a problem; `tensor` is one of `kernels.TENSOR`."""
    edge = edge_of(problem, room)
    assert edge is not None
    constants = kernels.convolution_constants(problem)
    constants |= {"TENSOR": tensor, "BOX": kernels.initialiser(edge.sides)}
    constants["EXAMPLES"] = edge.examples
    if problem.operation == "g":
        own = shares_of_g(problem)
        constants |= {"WIDTH": own.width, "FILTER_BLOCKS": own.filter_blocks}
        constants |= {"ROWS": own.rows, "ROW_BLOCKS": own.row_blocks}
    return constants


def shares_of_g(problem: Problem) -> Shares:
    """Divide a g among the warps of a block so that they issue the fewest instructions."""
    filters = kernels.channels_and_filters(problem)[1]
    all_rows, vector = ceil(_elements(problem) / 16), _vector(problem)
    best: Shares | None = None
    least = inf
    for width, rows in product((1, 2, 4, 8), range(1, all_rows + 1)):
        if width > vector or rows * width * 4 > LANES_SUMS:
            continue
        filter_blocks = 1
        while filter_blocks < WARPS and filter_blocks * 8 * width < filters:
            filter_blocks *= 2
        row_blocks = ceil(all_rows / rows)
        warps = filter_blocks * row_blocks
        if warps > WARPS:
            continue
        # pixels of each row and their places, products, codes and where they lie
        each = 5 * vector // 2 * rows + rows * width + 2 * width + 4 * vector
        cost = each * ceil(filters / (filter_blocks * 8 * width)) * WARPS / (WARPS // warps)
        if cost < least:
            best, least = Shares(width, filter_blocks, rows, row_blocks), cost
    assert best is not None
    return best


@cache
def edge_of(problem: Problem, room: int = MOST_BYTES) -> Edge | None:
    """Divide a problem so that it takes the least time, by an estimate; None if nothing fits."""
    geometry, examples = problem.geometry, kernels.examples(problem)
    is_h = kernels.product_of(problem) == "h"
    size = kernels.three(kernels.input_repeats(geometry) if is_h else geometry.output)
    most = kernels.THREADS if is_h else MOST_POSITIONS
    best: Edge | None = None
    least = inf
    for own, *sides in product(EXAMPLES, *map(_lengths, size)):
        positions = own * prod(sides)
        if own > examples or positions > most:
            continue
        seen = own * prod(_seen(problem, sides))
        boxes = ceil(examples / own) * prod(ceil(n / b) for n, b in zip(size, sides, strict=True))
        edge = Edge(own, tuple(sides), boxes, _shared_bytes(problem, positions, seen))
        rounds = ceil((seen if is_h else positions) / kernels.THREADS)
        each = 4 * kernels.THREADS * rounds + seen + OVERHEAD
        cost = each * (ceil(boxes / AT_ONCE) + FEWER * boxes)
        if edge.shared_bytes <= min(room, MOST_BYTES) and cost < least:
            best, least = edge, cost
    return best


def _lengths(n: int) -> list[int]:
    """List the sides that are tried: powers of two, and all there is."""
    return [*(1 << i for i in range(n.bit_length()) if 1 << i < n), n]


def _seen(problem: Problem, sides: Sequence[int]) -> list[int]:
    """Return the pixels that a box of outputs sees, or the codes that its repeats do, by axis."""
    geometry = problem.geometry
    axes = zip(geometry.kernel, geometry.dilation, geometry.stride, geometry.padding, strict=True)
    found = []
    for k, d, s, (before, _) in axes:
        if kernels.product_of(problem) == "h":
            found.append((1, ((k - 1) * d - before) // s - -before // s))
        else:
            found.append((s, (k - 1) * d))
    found = [(1, 0)] * (3 - len(found)) + found
    return [(n - 1) * s + 1 + more for n, (s, more) in zip(sides, found, strict=True)]


def _shared_bytes(problem: Problem, positions: int, seen: int) -> int:
    """Return the shared memory of a block, as the kernels divide it."""
    channels, filters = kernels.channels_and_filters(problem)
    elements, itemsize = _elements(problem), 16 // _vector(problem)
    rows, runs = ceil(elements / 16), ceil(filters / (4 * _vector(problem)))
    patch = 8 * positions + seen * channels * itemsize  # and where its outputs lie
    product_name = kernels.product_of(problem)
    if product_name == "c":
        steps = ceil(elements * itemsize / 32)
        return 32 * steps * (4 * runs * _vector(problem) + 1) + patch
    if product_name == "g":
        return max(patch, 4 * elements * shares_of_g(problem).filters)
    line = (seen + 23) // 32 * 32 + 8
    pixels = positions * prod(problem.geometry.stride) * channels
    return 1024 * runs * rows + 4 * max(elements * line, pixels)


def _elements(problem: Problem) -> int:
    """Return the elements of a filter."""
    return prod(problem.geometry.kernel) * kernels.channels_and_filters(problem)[0]


def _vector(problem: Problem) -> int:
    """Return how many elements of a batch 16 bytes have."""
    return 4 if kernels.factor_dtype(problem) == "float32" else 8
