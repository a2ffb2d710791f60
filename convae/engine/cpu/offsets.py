"""Tables of offsets that make c, h and g of any kernel the same sum of products.

With three axes, missing leading ones of size 1, channels last, and kernels filters last,
``(*tile, *kernel, C/groups, O)``, all three are

    D[r] (+)= sum over q of A[a_r + p_q] * B[b_q]

where D[r] and B[b_q] are rows of channels or filters, and A's elements are numbers:

    c:  r output positions      q kernel elements and channels    A = V, B = K
    h:  r input positions       q kernel elements and filters     A = G, B = K^T
    g:  r elements of K         q examples and output positions   A = V, B = G

What differs are the offsets. Positions at which they differ, by the stride's phase, the kernel of
a tile, or the group, are the terms of a plan. Work is divided into blocks, boxes of positions of
one or several examples; a block's part of A, with the padding around it, is copied to where the
offsets are the same for every block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import floor, prod
from typing import Any, TypeAlias

import numpy as np

from convae.engine.geometry import Geometry, spans

Table: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
Three: TypeAlias = tuple[int, int, int]

VECTOR_BYTES = 64
"""Bytes of a vector, which a machine with shorter registers keeps in several."""

BLOCK_BYTES = 256 << 10
"""Memory that a block's part of A, and of D, may take."""

FEWEST_BLOCKS = 8
"""Blocks of a problem that is worth dividing, if it has so many examples and rows."""

WORTH_DIVIDING = 1 << 21
"""Multiply-accumulates from which on a problem is divided."""

LOCAL_EXAMPLES = 16
"""Examples of a block where every position has a kernel of its own."""


@dataclass(frozen=True)
class Plan:
    """A problem as `products.convolve` computes it.

    Parameters
    ----------
    size, channels : tuple of int, int
        Of an example of A.
    whole : tuple of int
        Extent of the box of A that the largest block copies.
    examples : int
        Examples of that block.
    blocks : (M, 11) ndarray
        Number along the divided axis; where A begins, examples; start of the box; its extent;
        where D and B begin.
    terms : (T, 6) ndarray
        Offset in D, offset in A, first row, first step, offset in B, columns.
    rows, depths : (T, longest number + 1) ndarray
        Rows and steps of each term, by the number along the divided axis.
    D_offsets, A_offsets : (R,) ndarray
        Offsets of the rows.
    steps : (2 Q,) ndarray
        Offsets in A and B of the steps, in turn.
    fresh : bool
        Whether rows of D are overwritten; else they are added to.
    span : int
        Elements of D per number along the divided axis, where blocks divide D.
    """

    size: Three
    channels: int
    whole: Three
    examples: int
    blocks: Table
    terms: Table
    rows: Table
    depths: Table
    D_offsets: Table
    A_offsets: Table
    steps: Table
    fresh: bool
    span: int

    @property
    def room(self) -> int:
        """Elements of the largest box of A."""
        return self.examples * prod(self.whole) * self.channels


@dataclass(frozen=True)
class Axes:
    """A geometry with three axes, and where the positions of a padded input lie."""

    size: Three
    output: Three
    kernel: Three
    stride: Three
    dilation: Three
    tile: Three
    before: Three
    span: Three

    @classmethod
    def of(cls, geometry: Geometry) -> Axes:
        """Lift a geometry."""

        def three(entries: Any, filling: int = 1) -> Three:
            first, second, third = (filling,) * (3 - geometry.axes) + tuple(entries)
            return first, second, third

        return cls(
            three(geometry.size),
            three(geometry.output),
            three(geometry.kernel),
            three(geometry.stride),
            three(geometry.dilation),
            three(geometry.tile),
            three((before for before, _ in geometry.padding), 0),
            three(spans(geometry.kernel, geometry.dilation)),
        )

    @property
    def is_local(self) -> tuple[bool, bool, bool]:
        """Whether every output position of an axis has a kernel of its own."""
        one, two, three = (t == n > 1 for t, n in zip(self.tile, self.output, strict=True))
        return one, two, three


    @property
    def period(self) -> Three:
        """Distance of input positions that meet the same kernel elements."""
        one, two, three = (
            s * (max(t, n // s + 1) if local else t)
            for n, s, t, local in zip(
                self.size, self.stride, self.tile, self.is_local, strict=True
            )
        )
        return one, two, three


@dataclass(frozen=True)
class Division:
    """How the positions of D, for g those of G, are divided into blocks.

    Parameters
    ----------
    axis : int
        The divided axis: 0 for examples, 1 and 2 for the first two axes of positions.
    number : int
        How many along that axis are a block.
    total : int
        How many there are.
    positions : tuple of int
        Positions of an example.
    """

    axis: int
    number: int
    total: int
    positions: Three

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Examples and positions of a block."""
        full = [1, *self.positions]
        for axis in range(1, self.axis):
            full[axis] = 1
        full[self.axis] = self.number
        return full[0], full[1], full[2], full[3]

    def span(self, channels: int) -> int:
        """Elements of an array with these positions, per number."""
        return prod(self.positions[self.axis :]) * channels

    def origins(self, examples: int) -> list[tuple[int, int, int, int]]:
        """List (example, first positions along two axes, number) of all blocks."""
        starts = range(0, self.total, self.number)
        if self.axis == 0:
            return [(e, 0, 0, min(self.number, self.total - e)) for e in starts]
        ends = [(first, min(self.number, self.total - first)) for first in starts]
        if self.axis == 1:
            return [(e, first, 0, n) for e in range(examples) for first, n in ends]
        planes = product(range(examples), range(self.positions[0]))
        return [(e, j0, first, n) for e, j0 in planes for first, n in ends]


def divide(
    positions: Three, steps: Three, examples: int, example_bytes: int, macs: int, whole: bool
) -> Division:
    """Divide a problem: examples as long as they are small and many, else rows of positions.

    `steps` are what numbers of positions must be multiples of; `whole` keeps examples undivided.
    """
    if whole:
        return Division(0, min(examples, LOCAL_EXAMPLES), examples, positions)
    wanted = FEWEST_BLOCKS if macs * examples >= WORTH_DIVIDING else 1
    if example_bytes <= BLOCK_BYTES and (examples >= wanted or prod(positions[:2]) == 1):
        number = min(BLOCK_BYTES // example_bytes, -(-examples // wanted))
        return Division(0, max(number, 1), examples, positions)
    axis = 1 if positions[0] > 1 else 2
    total = positions[axis - 1]
    number = min(
        total * BLOCK_BYTES // example_bytes if axis == 2 or positions[0] > 1 else total,
        -(-total // -(-wanted // examples)),
    )
    number = max(number // steps[axis - 1], 1) * steps[axis - 1]
    return Division(axis, min(number, total), total, positions)


def rounded(count: int, itemsize: int) -> int:
    """Round up to whole vectors."""
    vector = VECTOR_BYTES // itemsize
    return -(-count // vector) * vector


def _grid(*counts: int) -> list[Table]:
    """Return the coordinates of all places of a box, flat, the last axis fastest."""
    return [axis.reshape(-1) for axis in np.meshgrid(*map(np.arange, counts), indexing="ij")]


def _strides(extent: Three, channels: int) -> tuple[int, int, int, int]:
    """Elements from one example, plane, row and position to the next."""
    row = extent[2] * channels
    return extent[0] * extent[1] * row, extent[1] * row, row, channels


def _dot(strides: tuple[int, ...], places: list[Table]) -> Table:
    return np.asarray(sum(s * p for s, p in zip(strides, places, strict=True)), np.int64)


def _numbered(coordinate: Table, chosen: Table, longest: int) -> Table:
    """Count the chosen places whose coordinate along the divided axis is below each number."""
    return np.searchsorted(coordinate[chosen], np.arange(longest + 1)).astype(np.int64)


class _Builder:
    """Collects the tables of a plan."""

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self.terms: list[tuple[int, ...]] = []
        self.rows: list[Table] = []
        self.depths: list[Table] = []
        self.D_offsets: list[Table] = []
        self.A_offsets: list[Table] = []
        self.steps: list[Table] = []
        self.row_count = self.step_count = 0

    def add_rows(self, D: Table, A: Table) -> int:
        """Append rows; returns where they begin."""
        begin, self.row_count = self.row_count, self.row_count + len(D)
        self.D_offsets.append(D)
        self.A_offsets.append(A)
        return begin

    def add_steps(self, A: Table, B: Table) -> int:
        """Append steps; returns where they begin."""
        begin, self.step_count = self.step_count, self.step_count + len(A)
        self.steps.append(np.stack([A, B], axis=1).reshape(-1))
        return begin

    def always(self, count: int) -> Table:
        """The same count for every number but 0."""
        counts = np.full(self.longest + 1, count, np.int64)
        counts[0] = 0
        return counts

    def term(
        self, rows: Table, depths: Table, row: int, step: int, *, D: int, A: int, B: int,
        columns: int,
    ) -> None:  # fmt: skip
        """Append a term."""
        self.terms.append((D, A, row, step, B, columns))
        self.rows.append(rows)
        self.depths.append(depths)

    def plan(self, blocks: list[list[int]], fresh: bool, **box: Any) -> Plan:
        """Put the tables together."""

        def joined(parts: list[Table]) -> Table:
            return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)

        return Plan(
            blocks=np.array(blocks, np.int64).reshape(-1, 11),
            terms=np.array(self.terms, np.int64).reshape(-1, 6),
            rows=np.array(self.rows, np.int64).reshape(len(self.terms), -1),
            depths=np.array(self.depths, np.int64).reshape(len(self.terms), -1),
            D_offsets=joined(self.D_offsets),
            A_offsets=joined(self.A_offsets),
            steps=joined(self.steps),
            fresh=fresh,
            **box,
        )


@lru_cache(maxsize=512)
def plan_for(
    operation: str, geometry: Geometry, C: int, O: int, examples: int, itemsize: int
) -> Plan:
    """Plan c, h or g of C channels and O filters."""
    make = {"c": _plan_c, "h": _plan_h, "g": _plan_g}[operation]
    return make(geometry, C, O, examples, itemsize)


def _elements(axes: Axes, channels: int) -> list[Table]:
    """Coordinates (m0, m1, m2, channel) of a kernel's elements."""
    return _grid(*axes.kernel, channels)


def _tiles(axes: Axes) -> list[Three]:
    return list(product(*map(range, axes.tile)))


def _division_of_outputs(
    geometry: Geometry, axes: Axes, C: int, O: int, examples: int, itemsize: int
) -> Division:
    """Divide the output positions, for c and g."""
    padded = prod((n - 1) * s + k for n, s, k in zip(axes.output, axes.stride, axes.span, strict=True))
    example_bytes = max(padded * C, prod(axes.output) * O) * itemsize
    is_tiled = any(t > 1 for t in axes.tile)
    return divide(axes.output, axes.tile, examples, example_bytes, geometry.macs(C, O), is_tiled)


def _visible_boxes(axes: Axes, division: Division, C: int, O: int, examples: int) -> Any:
    """Return the extent of the largest box of V, and for every block where its box is.

    The blocks are [number, offset in V, examples, start x 3, extent x 3, offset in Z].
    """

    def extent(counts: Any) -> Three:
        one, two, three = (
            (n - 1) * s + k for n, s, k in zip(counts, axes.stride, axes.span, strict=True)
        )
        return one, two, three

    full = division.box
    blocks = []
    for e, j0, j1, n in division.origins(examples):
        counts = list(full)
        counts[division.axis] = n
        start = [j * s - b for j, s, b in zip((j0, j1, 0), axes.stride, axes.before, strict=True)]
        output = ((e * axes.output[0] + j0) * axes.output[1] + j1) * axes.output[2]
        v = e * prod(axes.size) * C
        blocks.append([n, v, counts[0], *start, *extent(counts[1:]), output * O])
    return extent(full[1:]), blocks


def _plan_c(geometry: Geometry, C: int, O: int, examples: int, itemsize: int) -> Plan:
    axes, groups = Axes.of(geometry), geometry.groups
    division = _division_of_outputs(geometry, axes, C, O, examples, itemsize)
    whole, blocks = _visible_boxes(axes, division, C, O, examples)
    builder = _Builder(division.number)
    box = division.box
    places = _grid(*box)
    strides = _strides(whole, C)
    scaled = (strides[0], *(s * a for s, a in zip(axes.stride, strides[1:], strict=True)))
    A_rows = _dot(scaled, places)
    D_rows = _dot(_strides(axes.output, O), places)
    *m, channel = _elements(axes, C // groups)
    A_steps = _dot(strides[1:], [x * d for x, d in zip(m, axes.dilation, strict=True)]) + channel
    step = builder.add_steps(A_steps, np.arange(len(channel), dtype=np.int64) * O)
    depth, K_size = len(channel), len(channel) * O
    for number, tile in enumerate(_tiles(axes)):
        chosen = np.all(
            [p % t == r for p, t, r in zip(places[1:], axes.tile, tile, strict=True)], axis=0
        )
        row = builder.add_rows(D_rows[chosen], A_rows[chosen])
        rows = _numbered(places[division.axis], chosen, division.number)
        for group in range(groups):
            builder.term(
                rows, builder.always(depth), row, step,
                D=group * O // groups, A=group * C // groups,
                B=number * K_size + group * O // groups, columns=O // groups,
            )  # fmt: skip
    return builder.plan(
        [[*block, 0] for block in blocks], True,
        size=axes.size, channels=C, whole=whole, examples=box[0],
        span=division.span(O),
    )  # fmt: skip


def _plan_g(geometry: Geometry, C: int, O: int, examples: int, itemsize: int) -> Plan:
    axes, groups = Axes.of(geometry), geometry.groups
    division = _division_of_outputs(geometry, axes, C, O, examples, itemsize)
    whole, blocks = _visible_boxes(axes, division, C, O, examples)
    builder = _Builder(division.number)
    box = division.box
    places = _grid(*box)
    strides = _strides(whole, C)
    scaled = (strides[0], *(s * a for s, a in zip(axes.stride, strides[1:], strict=True)))
    A_steps, B_steps = _dot(scaled, places), _dot(_strides(axes.output, O), places)
    *m, channel = _elements(axes, C // groups)
    A_rows = _dot(strides[1:], [x * d for x, d in zip(m, axes.dilation, strict=True)]) + channel
    row = builder.add_rows(np.arange(len(channel), dtype=np.int64) * O, A_rows)
    K_size = len(channel) * O
    for number, tile in enumerate(_tiles(axes)):
        chosen = np.all(
            [p % t == r for p, t, r in zip(places[1:], axes.tile, tile, strict=True)], axis=0
        )
        step = builder.add_steps(A_steps[chosen], B_steps[chosen])
        depths = _numbered(places[division.axis], chosen, division.number)
        for group in range(groups):
            builder.term(
                builder.always(len(channel)), depths, row, step,
                D=number * K_size + group * O // groups, A=group * C // groups,
                B=group * O // groups, columns=O // groups,
            )  # fmt: skip
    return builder.plan(
        [[*block[:-1], 0, block[-1]] for block in blocks], False,
        size=axes.size, channels=C, whole=whole, examples=box[0],
        span=division.span(O),
    )  # fmt: skip


def _reach(axes: Axes) -> Three:
    """First position of G, along each axis, that meets position 0 of V, if there is one."""
    one, two, three = (
        floor((b - k + 1) / s)
        for b, k, s in zip(axes.before, axes.span, axes.stride, strict=True)
    )
    return one, two, three


def _met(axes: Axes, reach: Three, counts: tuple[int, ...]) -> Three:
    """Positions of G, from `reach` on, that may meet so many of V."""
    one, two, three = (
        (n - 1 + b) // s - q + 1
        for n, b, s, q in zip(counts, axes.before, axes.stride, reach, strict=True)
    )
    return one, two, three


def _hidden_boxes(
    axes: Axes, reach: Three, division: Division, C: int, O: int, examples: int
) -> tuple[Three, list[Any]]:
    """Return the extent of the largest box of G, and for every block where its box is.

    The blocks are [number, offset in G, examples, start x 3, extent x 3, offset in V', its planes
    and rows].
    """
    box = division.box
    blocks: list[Any] = []
    for e, y0, y1, n in division.origins(examples):
        counts = list(box)
        counts[division.axis] = n
        start = [y // s + q for y, s, q in zip((y0, y1, 0), axes.stride, reach, strict=True)]
        place = ((e * axes.size[0] + y0) * axes.size[1] + y1) * axes.size[2] * C
        extent = _met(axes, reach, tuple(counts[1:]))
        g = e * prod(axes.output) * O
        blocks.append([n, g, counts[0], *start, *extent, place, counts[1:3]])
    return _met(axes, reach, box[1:]), blocks


def _taps(axes: Axes, phase: tuple[int, ...]) -> Iterator[tuple[int, Three]]:
    """List the kernel elements that meet positions of a phase: number, position of G."""
    for number, m in enumerate(product(*map(range, axes.kernel))):
        sides = zip(phase, axes.before, m, axes.dilation, strict=True)
        met = [r + b - x * d for r, b, x, d in sides]
        if not any(y % s for y, s in zip(met, axes.stride, strict=True)):
            j0, j1, j2 = (y // s for y, s in zip(met, axes.stride, strict=True))
            yield number, (j0, j1, j2)


def _plan_h(geometry: Geometry, C: int, O: int, examples: int, itemsize: int) -> Plan:
    axes, groups = Axes.of(geometry), geometry.groups
    period, reach = axes.period, _reach(axes)
    example_bytes = max(prod(_met(axes, reach, axes.size)) * O, prod(axes.size) * C) * itemsize
    is_tiled = any(t > 1 for t in axes.tile)
    division = divide(axes.size, period, examples, example_bytes, geometry.macs(C, O), is_tiled)
    box = division.box
    whole, blocks = _hidden_boxes(axes, reach, division, C, O, examples)
    builder = _Builder(division.number)
    strides = _strides(whole, O)
    elements, per_group, channels = prod(axes.kernel), O // groups, C // groups
    width = rounded(channels, itemsize)
    filters = np.arange(per_group, dtype=np.int64)
    kernel_size = elements * O * width
    for phase in product(*(range(min(p, n)) for p, n in zip(period, box[1:], strict=True))):
        steps_A, steps_B = [], []
        for number, j in _taps(axes, phase):
            local = zip(j, axes.output, axes.is_local, strict=True)
            if any(is_local and not 0 <= x < n for x, n, is_local in local):
                continue
            tile = 0
            for x, t in zip(j, axes.tile, strict=True):
                tile = tile * t + x % t
            place = sum(s * (x - q) for s, x, q in zip(strides[1:], j, reach, strict=True))
            steps_A.append(place + filters)
            steps_B.append(tile * kernel_size + (number * O + filters) * width)
        empty = np.zeros(0, np.int64)
        A_steps, B_steps = (np.concatenate([empty, *part]) for part in (steps_A, steps_B))
        step = builder.add_steps(A_steps, B_steps)
        counts = [-(-(n - r) // p) for n, r, p in zip(box[1:], phase, period, strict=True)]
        e, *turns = _grid(box[0], *counts)
        y = [r + p * x for r, p, x in zip(phase, period, turns, strict=True)]
        j_rows = [(v - r) // s for v, r, s in zip(y, phase, axes.stride, strict=True)]
        row = builder.add_rows(_dot(_strides(axes.size, C), [e, *y]), _dot(strides, [e, *j_rows]))
        everywhere = np.ones(len(e), bool)
        rows = _numbered([e, *y][division.axis], everywhere, division.number)
        for group in range(groups):
            builder.term(
                rows, builder.always(len(A_steps)), row, step,
                D=group * channels, A=group * per_group, B=group * per_group * width,
                columns=channels,
            )  # fmt: skip
    return builder.plan(
        [[*block[:-1], 0] for block in blocks], True,
        size=axes.output, channels=O, whole=whole, examples=box[0],
        span=division.span(C),
    )  # fmt: skip


@dataclass(frozen=True)
class NarrowPlan:
    """h to few channels, as `products.spread` computes it.

    With few channels the vectors run along positions: the product ``M = K @ G^T`` has a row for
    every element of the kernel, and each row of V' is a sum of shifted parts of its rows.

    Parameters
    ----------
    size, filters : tuple of int, int
        Of an example of G.
    whole, examples : tuple of int, int
        Extent and examples of the largest box of G.
    blocks : (M, 12) ndarray
        Number, where G begins, examples; start of the box; its extent; where V' begins, planes and
        rows of V'.
    K_offsets, M_offsets : (R,) ndarray
        Where the rows of K and M begin.
    steps : (2 O,) ndarray
        Offsets of the filters in K and G^T.
    width : int
        Elements of a row of M and of G^T.
    sums : (phases, 2) ndarray
        First of its taps and their number, of each phase of the stride.
    taps : (Q,) ndarray
        Offsets in M of what is summed.
    span : int
        Elements of V' per number along the divided axis.
    """

    size: Three
    filters: int
    whole: Three
    examples: int
    blocks: Table
    K_offsets: Table
    M_offsets: Table
    steps: Table
    width: int
    channels: int
    stride: Three
    positions: int
    sums: Table
    taps: Table
    span: int

    @property
    def room(self) -> int:
        """Elements of the largest box of G."""
        return self.examples * prod(self.whole) * self.filters


@lru_cache(maxsize=256)
def narrow_plan_for(
    geometry: Geometry, C: int, O: int, examples: int, itemsize: int
) -> NarrowPlan:
    """Plan h of a shared kernel to few channels C."""
    axes = Axes.of(geometry)
    reach = _reach(axes)
    elements = prod(axes.kernel)
    example_bytes = prod(_met(axes, reach, axes.size)) * max(O, elements * C) * itemsize
    division = divide(
        axes.size, axes.stride, examples, example_bytes, geometry.macs(C, O), False
    )  # fmt: skip
    box = division.box
    whole, blocks = _hidden_boxes(axes, reach, division, C, O, examples)
    positions = box[0] * prod(whole)
    width = rounded(positions, itemsize)
    row, plane = whole[2], whole[1] * whole[2]
    sums, taps = [], []
    for phase in product(*map(range, axes.stride)):
        begin = len(taps)
        for number, j in _taps(axes, phase):
            place = [x - q for x, q in zip(j, reach, strict=True)]
            taps.append(number * C * width + place[0] * plane + place[1] * row + place[2])
        sums.append((begin, len(taps) - begin))
    filters = np.arange(O, dtype=np.int64)
    rows = np.arange(elements * C, dtype=np.int64)
    return NarrowPlan(
        size=axes.output, filters=O, whole=whole, examples=box[0],
        blocks=np.array([[*block[:-1], *block[-1]] for block in blocks], np.int64).reshape(-1, 12),
        K_offsets=rows * O, M_offsets=rows * width,
        steps=np.stack([filters, filters * width], axis=1).reshape(-1),
        width=width, channels=C, stride=axes.stride, positions=axes.size[2],
        sums=np.array(sums, np.int64), taps=np.array(taps, np.int64), span=division.span(C),
    )  # fmt: skip
