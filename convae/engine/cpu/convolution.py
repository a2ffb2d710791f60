"""c, h and g on arrays with channels last, by the plans of `offsets`, divided among threads.

Batches are ``(N, *size, C)`` and kernels filters last, ``(*tile, *kernel, C/groups, O)``. A problem
is bound to its arrays once, and computed as often as it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import prod
from typing import TypeAlias, TypeVar

import numpy as np

from convae.engine.arrays import Array
from convae.engine.cpu import products
from convae.engine.cpu.offsets import NarrowPlan, Plan, narrow_plan_for, plan_for, rounded
from convae.engine.cpu.products import Behind
from convae.engine.cpu.threads import in_pool, map_tasks, scratch
from convae.engine.geometry import Geometry

Bound: TypeAlias = Callable[[], float]
"""Computes a problem, and returns the sum of squared errors, if there are any behind it."""

Result = TypeVar("Result")

NARROW = 8
"""Channels up to which h has its vectors along positions."""

MOST_TASKS = 16
"""Tasks into which the blocks of a problem are divided; each of g's has sums of its own."""


@cache
def nothing(dtype: np.dtype[np.generic]) -> Behind:
    """Nothing is behind a product."""
    none, zero = np.zeros(1, dtype), dtype.type(0)
    return Behind(products.NOTHING, none, zero, none, none, none, (zero,) * 4, zero)


def bind_c(K: Array, V: Array, Z: Array, geometry: Geometry, behind: Behind) -> Bound:
    """Bind ``Z = c(K, V)``."""
    plan = plan_for("c", geometry, V.shape[-1], K.shape[-1], len(V), V.itemsize)
    return lambda: sum(_divided(plan, lambda part: _convolve(plan, Z, V, K, part, behind)))


def bind_h(K: Array, G: Array, V: Array, geometry: Geometry, behind: Behind) -> Bound:
    """Bind ``V = h(K, G)``."""
    if V.shape[-1] <= NARROW and geometry.groups == 1 and {*geometry.tile} == {1}:
        return _bind_narrow(K, G, V, geometry, behind)
    C, O = K.shape[-2:]
    plan = plan_for("h", geometry, V.shape[-1], O, len(G), G.itemsize)
    count, width = prod(K.shape[:-2]), rounded(C, K.itemsize)
    turned = np.empty((count * O + rounded(O, K.itemsize)) * width, K.dtype)

    def run() -> float:
        products.turn_all(turned, K.reshape(-1), count, C, O, width)
        return sum(_divided(plan, lambda part: _convolve(plan, V, G, turned, part, behind)))

    return run


def bind_g(G: Array, V: Array, dK: Array, geometry: Geometry) -> Bound:
    """Bind ``dK = g(G, V)``."""
    plan = plan_for("g", geometry, V.shape[-1], G.shape[-1], len(V), V.itemsize)
    none = nothing(V.dtype)

    def add(part: slice) -> Array:
        D = dK if part.start == 0 else np.empty_like(dK)
        D[...] = 0
        _convolve(plan, D, V, G, part, none)
        return D

    def run() -> float:
        _, *others = _divided(plan, add)
        for other in others:
            np.add(dK, other, out=dK)
        return 0.0

    return run


def _divided(plan: Plan | NarrowPlan, compute: Callable[[slice], Result]) -> list[Result]:
    """Compute the blocks in parallel, or one after the other in a thread of the pool."""
    blocks = len(plan.blocks)
    if in_pool():
        return [compute(slice(0, blocks))]
    tasks = min(blocks, MOST_TASKS)
    ends = [blocks * task // tasks for task in range(tasks + 1)]
    return map_tasks(compute, [slice(*pair) for pair in zip(ends, ends[1:], strict=False)])


def _convolve(plan: Plan, D: Array, A: Array, B: Array, part: slice, behind: Behind) -> float:
    """Compute some blocks, and return the sum of their squared errors."""
    P = scratch("box", (plan.room,), A.dtype)
    return products.convolve(
        D.reshape(-1), A.reshape(-1), B.reshape(-1), P, part.start, part.stop, plan.size,
        plan.channels, plan.whole, plan.blocks, plan.terms, plan.rows, plan.depths,
        plan.D_offsets, plan.A_offsets, plan.steps, plan.fresh, plan.span, behind,
    )  # fmt: skip


def _bind_narrow(K: Array, G: Array, V: Array, geometry: Geometry, behind: Behind) -> Bound:
    """Bind h to few channels."""
    C, O, dtype = V.shape[-1], G.shape[-1], G.dtype
    plan = narrow_plan_for(geometry, C, O, len(G), G.itemsize)

    def compute(part: slice) -> float:
        P = scratch("box", (plan.room,), dtype)
        T = scratch("turned box", (rounded(O, G.itemsize) * plan.width,), dtype)
        M = scratch("products", (len(plan.M_offsets) * plan.width,), dtype)
        return products.spread(
            V.reshape(-1), G.reshape(-1), K.reshape(-1), P, T, M, part.start, part.stop,
            plan.size, O, plan.whole, plan.blocks, plan.K_offsets, plan.M_offsets, plan.steps,
            plan.width, C, plan.stride, plan.positions, plan.sums, plan.taps, plan.span, behind,
        )  # fmt: skip

    return lambda: sum(_divided(plan, compute))
