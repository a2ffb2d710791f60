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

MOST_ELEMENTS = 128
"""Elements of a filter for which a warp has registers."""

MOST_BYTES = 96 << 10
"""Shared memory of a block: less than every card since sm_80 has."""

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


def suits_edges(problem: Problem) -> bool:
    """Tell whether the kernels for few channels cover a problem."""
    if not kernels.suits_products(problem):
        return False
    geometry, bias = problem.geometry, problem.shape("bias")
    channels, filters = kernels.channels_and_filters(problem)
    is_shared = geometry.groups == prod(geometry.tile) == 1 and (bias is None or len(bias) == 1)
    if not is_shared or channels > kernels.NARROW or _elements(problem) > MOST_ELEMENTS:
        return False
    return filters % _vector(problem) == 0 and edge_of(problem) is not None


def edge_constants(problem: Problem, tensor: int) -> dict[str, Any]:
    """Return the constants of a problem; `tensor` is one of `kernels.TENSOR`."""
    edge = edge_of(problem)
    assert edge is not None
    width, blocks = filters_of_lanes(problem)
    constants = kernels.convolution_constants(problem)
    constants |= {"TENSOR": tensor, "BOX": kernels.initialiser(edge.sides)}
    return constants | {"EXAMPLES": edge.examples, "WIDTH": width, "FILTER_BLOCKS": blocks}


def filters_of_lanes(problem: Problem) -> tuple[int, int]:
    """Return how many filters a lane of g reads at once, and how many warps divide all of them."""
    filters = kernels.channels_and_filters(problem)[1]
    width = _vector(problem)
    rows = ceil(_elements(problem) / 16)
    while width > 1 and (4 * width >= filters or rows * width * 4 > LANES_SUMS):
        width //= 2
    blocks = 1
    while blocks < WARPS and blocks * 8 * width < filters:
        blocks *= 2
    return width, blocks


@cache
def edge_of(problem: Problem) -> Edge | None:
    """Divide a problem so that an estimate of its time is least; None if nothing fits."""
    geometry, product_name = problem.geometry, kernels.product_of(problem)
    is_h = product_name == "h"
    examples = (problem.shape("G" if is_h else "V") or (1,))[0]
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
        cost = ceil(boxes / AT_ONCE) * (4 * kernels.THREADS * rounds + seen + OVERHEAD)
        if edge.shared_bytes <= MOST_BYTES and cost < least:
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
        width, blocks = filters_of_lanes(problem)
        return max(patch, 4 * 16 * rows * blocks * 8 * width)
    line = (seen + 23) // 32 * 32 + 8
    pixels = positions * prod(problem.geometry.stride) * channels
    return 1024 * runs * rows + 4 * max(elements * line, pixels)


def _elements(problem: Problem) -> int:
    """Return the elements of a filter."""
    return prod(problem.geometry.kernel) * kernels.channels_and_filters(problem)[0]


def _vector(problem: Problem) -> int:
    """Return how many elements of a batch 16 bytes have."""
    return 4 if kernels.factor_dtype(problem) == "float32" else 8
