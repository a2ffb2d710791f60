"""The NumPy backend: compiled convolutions and programs, and the division of work among threads.

Batches are channels last in memory, ``(N, *size, C)``. Where Numba may not compile, with
NUMBA_DISABLE_JIT, array code computes everything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from math import prod
from types import ModuleType
from typing import TypeVar

from convae.engine.arrays import Array
from convae.engine.backend import (
    ArrayBackend,
    channels_last,
    channels_second,
    copy_in_order,
    filters_first,
    filters_last,
    memory_order,
)
from convae.engine.cpu import threads
from convae.engine.cpu.buffers import empty
from convae.engine.geometry import Geometry, Integers
from convae.engine.program import Executable, Problem, Way
from convae.engine.updates import Moments

Result = TypeVar("Result")

NARROW, MANY_FILTERS = 8, 32
"""Examples times channels, and filters, of which a product of matrices makes h of stride 1 faster:
vectors of few channels are mostly empty, and there are no examples to fill them."""

COLUMN_BYTES = 128 << 20
"""Memory for such a product's columns, at most."""

SWEEP_ELEMENTS = 1 << 15
"""Elements of a piece of an elementwise pass, which stays in a core's cache."""

UPDATE_ELEMENTS = 1 << 17
"""Parameters that a thread updates at a time."""


class NumpyBackend(ArrayBackend):
    """c, h and g on NumPy arrays, programs of compiled nodes, and a compiled update."""

    @property
    def runs_programs(self) -> bool:  # type: ignore[override]
        """See `convae.engine.backend.Backend`."""
        return compiles()

    def ways(self) -> Callable[[Problem], Way]:
        """See `convae.engine.backend.Backend`; compiled, where that suits the problem."""
        found, portable = compiled("ways").Compiled(), super().ways()
        return lambda problem: found if found.suits(problem) else portable(problem)

    def runner(self, executable: Executable) -> Callable[[], None]:
        """See `convae.engine.backend.Backend`; consecutive compiled nodes are one call."""
        run: Callable[[], None] = compiled("ways").Fused(executable)
        return run

    def c(self, K: Array, V: Array, geometry: Geometry) -> Array:
        """See `convae.engine.backend.Backend`."""
        if not compiles():
            return super().c(K, V, geometry)
        Z = empty((len(V), *geometry.output, len(K)), V.dtype)
        self._compute("c", (_kernel(K, geometry), _batch(V), Z), geometry)
        return channels_second(Z)

    def h(self, K: Array, G: Array, geometry: Geometry) -> Array:
        """See `convae.engine.backend.Backend`."""
        kernel = _kernel(K, geometry)
        channels = kernel.shape[-2]
        columns = 4 * len(G) * channels * prod(geometry.kernel) * prod(geometry.output)
        is_narrow = len(G) * channels < NARROW and 1 in (len(G), channels)
        is_narrow = is_narrow and len(K) >= MANY_FILTERS and {*geometry.stride} == {1}
        if not compiles() or (is_narrow and geometry.groups == 1 and columns <= COLUMN_BYTES):
            return super().h(K, G, geometry)
        V = empty((len(G), *geometry.size, kernel.shape[-2] * geometry.groups), G.dtype)
        self._compute("h", (kernel, _batch(G), V), geometry)
        return channels_second(V)

    def g(self, G: Array, V: Array, K_shape: tuple[int, ...], geometry: Geometry) -> Array:
        """See `convae.engine.backend.Backend`."""
        if not compiles():
            return super().g(G, V, K_shape, geometry)
        order = memory_order(len(K_shape), geometry.axes)
        dK = empty(tuple(K_shape[axis] for axis in order), V.dtype)
        self._compute("g", (_batch(G), _batch(V), dK), geometry)
        return filters_first(dK, geometry.axes)

    def empty_batch(self, shape: tuple[int, ...], dtype: str) -> Array:
        """See `convae.engine.backend.Backend`; vectors begin where cache lines do."""
        N, C, *size = shape
        return channels_second(empty((N, *size, C), dtype))

    def pool(self, H: Array, window: Integers) -> tuple[Array, Array]:
        """See `convae.engine.backend.Backend`."""
        if not compiles():
            return super().pool(H, window)
        lying = _batch(H)
        N, *size, O = lying.shape
        shape = (N, *(n // w for n, w in zip(size, window, strict=True)), O)
        P, switches = empty(shape, H.dtype), empty(shape, H.dtype)
        self._pool("pool", (lying, P, switches), window)
        return channels_second(P), channels_second(switches)

    def take(self, H: Array, switches: Array, window: Integers) -> Array:
        """See `convae.engine.backend.Backend`."""
        if not compiles():
            return super().take(H, switches, window)
        lying, numbers = _batch(H), _batch(switches.astype(H.dtype, copy=False))
        P = empty(numbers.shape, H.dtype)
        self._pool("take", (lying, P, numbers), window)
        return channels_second(P)

    def unpool(self, P: Array, switches: Array, window: Integers) -> Array:
        """See `convae.engine.backend.Backend`."""
        if not compiles():
            return super().unpool(P, switches, window)
        lying, numbers = _batch(P), _batch(switches.astype(P.dtype, copy=False))
        N, *counts, O = lying.shape
        H = empty((N, *(n * w for n, w in zip(counts, window, strict=True)), O), P.dtype)
        self._pool("unpool", (H, lying, numbers), window)
        return channels_second(H)

    def extend(self, V: Array, geometry: Geometry) -> Array:
        """See `convae.engine.backend.Backend`."""
        if not compiles():
            return super().extend(V, geometry)
        lying = _batch(V)
        W = empty((len(V), *geometry.inner.size, V.shape[1]), V.dtype)
        compiled("padding").extend(lying, W, geometry)()
        return channels_second(W)

    def fold(self, W: Array, geometry: Geometry) -> Array:
        """See `convae.engine.backend.Backend`."""
        if not compiles():
            return super().fold(W, geometry)
        lying = _batch(W)
        V = empty((len(W), *geometry.size, W.shape[1]), W.dtype)
        compiled("padding").fold(V, lying, geometry)()
        return channels_second(V)

    def _pool(self, name: str, arrays: tuple[Array, Array, Array], window: Integers) -> None:
        if arrays[0].size:
            compiled("pooling").compute(name, arrays, window)

    def _compute(self, operation: str, arrays: tuple[Array, ...], geometry: Geometry) -> None:
        compiled("convolution").compute(operation, arrays, geometry)

    def update(
        self,
        method: Callable[..., None],
        parameters: Array,
        gradients: Array,
        numbers: Sequence[float],
        state: Mapping[str, Array],
    ) -> None:
        """See `convae.engine.backend.Backend`; one compiled pass for Adam."""
        if not compiles() or not isinstance(method, Moments):
            super().update(method, parameters, gradients, numbers, state)
            return
        arrays = parameters, gradients, state["first_moment"], state["second_moment"]
        rate, correction, decay = numbers
        settings = (method.penalty, method.beta1, method.beta2, method.epsilon, rate, correction)
        values = [parameters.dtype.type(v) for v in (*settings, decay if method.decays else 1)]

        def follow(part: slice) -> None:
            compiled("updating").follow_moments(*arrays, part.start, part.stop, *values)

        threads.map_tasks(follow, threads.cut(len(parameters), UPDATE_ELEMENTS))

    def arrange(self, x: Array) -> Array:
        """See `convae.engine.backend.Backend`; memory order (N, *size, C)."""
        return channels_second(_batch(x))

    def pieces(self, count: int, elements: int) -> list[slice]:
        """See `convae.engine.backend.Backend`."""
        return threads.cut(count, max(1, SWEEP_ELEMENTS // max(elements, 1)))

    def divide(
        self, examples: int, work: int, numbers: int, parameters: int = 0, is_compiled: bool = False
    ) -> list[slice]:
        """See `convae.engine.backend.Backend`; independent of the number of threads."""
        return threads.divide(examples, work, numbers, parameters, is_compiled)

    def map(self, function: Callable[[slice], Result], chunks: list[slice]) -> list[Result]:
        """See `convae.engine.backend.Backend`."""
        return threads.map_tasks(function, chunks)


@cache
def compiles() -> bool:
    """Tell whether Numba may compile; with NUMBA_DISABLE_JIT everything is computed by NumPy."""
    return os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")


@cache
def compiled(module: str) -> ModuleType:
    """Import compiled code on first use: importing Numba is slow."""
    from importlib import import_module

    return import_module(f"convae.engine.cpu.{module}")


def _batch(array: Array) -> Array:
    """View (N, C, *size) as it lies in memory, (N, *size, C), copying only if it does not."""
    return _contiguous(channels_last(array))


def _kernel(K: Array, geometry: Geometry) -> Array:
    """View a kernel as it lies in memory, copying only if it does not."""
    return _contiguous(filters_last(K, geometry.axes))


def _contiguous(array: Array) -> Array:
    """Copy an array that is not contiguous, or not aligned."""
    flags = array.flags
    if flags.c_contiguous and flags.aligned:
        return array
    copy = empty(array.shape, array.dtype)
    copy_in_order(array, copy)
    return copy
