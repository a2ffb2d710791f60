"""The seam between the mathematics and the machine: what a backend has to provide.

A backend is an object with c, h, g and the passes between them. It is chosen once per model, by
`backend_for`, and a test can hand a model one of its own. Above this seam arrays are logical NCHW,
``(N, C, *size)``; how they lie in memory is the backend's business. Arguments arrive checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import product
from types import ModuleType
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from convae.engine import edges, gemm
from convae.engine.arrays import Array, array_module, missing_gpu
from convae.engine.geometry import Geometry, Integers
from convae.errors import DeviceError, check_choice

if TYPE_CHECKING:
    from convae.engine.program import Executable, Problem, Way

Result = TypeVar("Result")

DEVICES = ("cpu", "gpu", "auto")

SHORT_AXIS = 16
"""So few elements of a last axis are copied one after another."""


class Elementwise(Protocol):
    """What a backend needs to know of an activation f; see `convae.models.activations`."""

    @property
    def name(self) -> str:
        """What it is called; a compiled pass may know a "sigmoid"."""

    @property
    def function(self) -> Callable[[ModuleType, Array], None]:
        """``function(xp, Z)`` replaces Z by f(Z)."""

    @property
    def derivative(self) -> Callable[[ModuleType, Array], Array] | None:
        """``derivative(xp, H)`` is f'(Z) computed from H = f(Z); None where it is 1 everywhere."""

    @property
    def slope(self) -> float | None:
        """The slope below zero of a piecewise linear f whose slope above zero is 1, or None."""

    @property
    def quadratic(self) -> tuple[float, float, float, float] | None:
        """(p, q, r, below): f' = p + q*H + r*H**2, times below where H <= 0; None if it is not."""


class Backend(Protocol):
    """What computes. All arrays are logical NCHW and belong to `xp`.

    Attributes
    ----------
    xp : module
        ``numpy`` or ``cupy``.
    device : {"cpu", "gpu"}
        Where its arrays live.
    dtypes : tuple of str
        The element types of arrays that c, h and g accept.
    """

    xp: ModuleType
    device: str
    dtypes: tuple[str, ...]

    @property
    def runs_programs(self) -> bool:
        """Whether models compute by `ways`; otherwise by the operations below, one by one."""

    def ways(self) -> Callable[[Problem], Way]:
        """Return what chooses how the nodes of a program are computed."""

    def runner(self, executable: Executable) -> Callable[[], None]:
        """Return what runs a program that is bound to memory and to ways."""

    @property
    def tolerance(self) -> dict[str, float]:
        """Largest error of the trilinear identity, by dtype, that rounding can explain."""

    def c(self, K: Array, V: Array, geometry: Geometry) -> Array:
        """Strided convolution: K (O, [*tile,] C/groups, *kernel), V (N, C, *size) -> Z."""

    def h(self, K: Array, G: Array, geometry: Geometry) -> Array:
        """Transposed convolution: K, G (N, O, *output) -> V' (N, C, *size)."""

    def g(self, G: Array, V: Array, K_shape: tuple[int, ...], geometry: Geometry) -> Array:
        """Gradient of the kernel, summed over the examples: G, V -> dK of shape K_shape."""

    def activate(self, Z: Array, b: Array | None, f: Elementwise) -> Array:
        """``f(Z + b)`` in place; b is (C,), broadcasts to (C, *size), or is None."""

    def activation_gradient(self, dH: Array, H: Array, f: Elementwise) -> Array:
        """``dZ = dH * f'(Z)`` in place of dH, from H = f(Z)."""

    def squared_error(
        self, R: Array, x: Array, f_out: Elementwise, count: int
    ) -> tuple[Array, Array]:
        """``J = sum (R - x)**2 / count`` and ``E = 2 (R - x) / count * f_out'``."""

    def bias_gradient(self, G: Array, by_position: bool) -> Array:
        """Sum over the examples, to (C, *size), and unless by_position over them too, to (C,)."""

    def pool(self, H: Array, window: Integers) -> tuple[Array, Array]:
        """Take the largest of each window, and which it is: (N, O, *size) -> (N, O, *windows)."""

    def take(self, H: Array, switches: Array, window: Integers) -> Array:
        """Take of each window what its switch points at."""

    def unpool(self, P: Array, switches: Array, window: Integers) -> Array:
        """Put values where the switches point, and zeros elsewhere: the transpose of `take`."""

    def extend(self, V: Array, geometry: Geometry) -> Array:
        """Pad V (N, C, *size) by copies of its positions, see `convae.engine.edges`."""

    def fold(self, W: Array, geometry: Geometry) -> Array:
        """Add what lies in the padding of W (N, C, *padded) to what it copies: its transpose."""

    def axpy(self, alpha: float, x: Array, y: Array) -> None:
        """``y += alpha * x`` in place."""

    def update(
        self,
        method: Callable[..., None],
        parameters: Array,
        gradients: Array,
        numbers: Sequence[float],
        state: Mapping[str, Array],
    ) -> None:
        """Do one step of an optimizer's method, see `convae.engine.updates`, in place."""

    def kernel_view(self, elements: Array, shape: tuple[int, ...], axes: int) -> Array:
        """View a flat stretch of memory as a kernel, in the order that c, h and g prefer."""

    def arrange(self, x: Array) -> Array:
        """Copy a batch into the memory order that c, h and g prefer, unless it has it already."""

    def empty_batch(self, shape: tuple[int, ...], dtype: str) -> Array:
        """Make an uninitialised batch (N, C, *size) in that memory order."""

    def divide(
        self, examples: int, work: int, numbers: int, parameters: int = 0, is_compiled: bool = False
    ) -> list[slice]:
        """Divide a batch into chunks.

        One example takes `work` multiply-accumulates, and so many numbers in memory. Every chunk
        also takes reading and writing the gradients of so many parameters. If all of it
        `is_compiled`, threads may also share a single one.
        """

    def pieces(self, count: int, elements: int) -> list[slice]:
        """Divide an axis for elementwise passes; each position has so many elements."""

    def map(self, function: Callable[[slice], Result], chunks: list[slice]) -> list[Result]:
        """Call the function on each chunk, in parallel where that pays; results in order."""


class ArrayBackend:
    """The portable backend: array operations that NumPy and CuPy share, one batch at a time.

    Also the base of the others, which override what they do faster. Its convolutions are the matrix
    products of `convae.engine.gemm`.
    """

    xp: ModuleType = np
    device = "cpu"
    runs_programs = False
    dtypes: tuple[str, ...] = ("float32", "float64")

    def __deepcopy__(self, memo: object) -> ArrayBackend:
        """Let the copies of a model share its backend."""
        return self

    def ways(self) -> Callable[[Problem], Way]:
        """See `Backend`; by its operations."""
        from convae.engine.program import Portable  # which knows backends

        portable = Portable(self)
        return lambda problem: portable

    def runner(self, executable: Executable) -> Callable[[], None]:
        """See `Backend`; one node after the other."""
        return executable

    @property
    def tolerance(self) -> dict[str, float]:
        """See `Backend`."""
        return {"float16": 1e-2, "bfloat16": 1e-1, "float32": 1e-5, "float64": 1e-10}

    def c(self, K: Array, V: Array, geometry: Geometry) -> Array:
        """See `Backend`; arrays of two bytes are multiplied and summed in float32."""
        Z = gemm.c(self.xp, wide(K), wide(examples_last(V)), geometry, self.scratch)
        return examples_first(Z.astype(V.dtype, copy=False))

    def h(self, K: Array, G: Array, geometry: Geometry) -> Array:
        """See `Backend`; arrays of two bytes are multiplied and summed in float32."""
        V = gemm.h(self.xp, wide(K), wide(examples_last(G)), geometry, self.scratch)
        return examples_first(V.astype(G.dtype, copy=False))

    def g(self, G: Array, V: Array, K_shape: tuple[int, ...], geometry: Geometry) -> Array:
        """See `Backend`; dK is float32 or longer."""
        both = wide(examples_last(G)), wide(examples_last(V))
        return gemm.g(self.xp, *both, K_shape, geometry, self.scratch)

    def scratch(self, name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
        """Provide uninitialised memory for a product; the base takes fresh memory."""
        return self.xp.empty(shape, dtype)

    def activate(self, Z: Array, b: Array | None, f: Elementwise) -> Array:
        """See `Backend`."""
        if b is not None:
            Z += b.reshape(-1, *(1 for _ in Z.shape[2:])) if b.ndim == 1 else b
        f.function(self.xp, Z)
        return Z

    def activation_gradient(self, dH: Array, H: Array, f: Elementwise) -> Array:
        """See `Backend`."""
        if f.derivative is not None:
            dH *= f.derivative(self.xp, H)
        return dH

    def squared_error(
        self, R: Array, x: Array, f_out: Elementwise, count: int
    ) -> tuple[Array, Array]:
        """See `Backend`."""
        E = self.xp.subtract(R, x, out=self.xp.empty_like(R))  # in R's memory order
        J = self.xp.asarray(self.xp.square(E).sum(dtype=self.xp.float64) / count)
        E *= 2 / count
        return J, self.activation_gradient(E, R, f_out)

    def bias_gradient(self, G: Array, by_position: bool) -> Array:
        """See `Backend`; sums are float32 or longer."""
        axes = (0,) if by_position else (0, *range(2, G.ndim))
        return G.sum(axis=axes, dtype=self.xp.promote_types(G.dtype, "float32"))

    def pool(self, H: Array, window: Integers) -> tuple[Array, Array]:
        """See `Backend`."""
        first, *others = _in_windows(H, window)
        values = first.copy()
        switches = self.xp.zeros_like(values, dtype="int32")
        for number, some in enumerate(others, start=1):
            is_larger = some > values
            is_larger |= (some != some) & (values == values)  # NaN is the largest
            self.xp.copyto(values, some, where=is_larger)
            self.xp.copyto(switches, number, where=is_larger)
        return values, switches

    def take(self, H: Array, switches: Array, window: Integers) -> Array:
        """See `Backend`."""
        first, *others = _in_windows(H, window)
        values: Array = first.copy()
        for number, some in enumerate(others, start=1):
            self.xp.copyto(values, some, where=switches == number)
        return values

    def unpool(self, P: Array, switches: Array, window: Integers) -> Array:
        """See `Backend`."""
        N, O, *counts = P.shape
        size = (n * w for n, w in zip(counts, window, strict=True))
        H = channels_second(self.xp.zeros((N, *size, O), P.dtype))
        for number, some in enumerate(_in_windows(H, window)):
            self.xp.copyto(some, P, where=switches == number)
        return H

    def extend(self, V: Array, geometry: Geometry) -> Array:
        """See `Backend`."""
        return edges.extend(V, geometry)

    def fold(self, W: Array, geometry: Geometry) -> Array:
        """See `Backend`."""
        return edges.fold(W, geometry)

    def axpy(self, alpha: float, x: Array, y: Array) -> None:
        """See `Backend`."""
        y += x if alpha == 1 else alpha * x

    def update(
        self,
        method: Callable[..., None],
        parameters: Array,
        gradients: Array,
        numbers: Sequence[float],
        state: Mapping[str, Array],
    ) -> None:
        """See `Backend`."""
        method(self, parameters, gradients, numbers, **state)

    def kernel_view(self, elements: Array, shape: tuple[int, ...], axes: int) -> Array:
        """See `Backend`; filters last, ``(*tile, *kernel, C, O)``."""
        memory = tuple(shape[axis] for axis in memory_order(len(shape), axes))
        return filters_first(elements.reshape(memory), axes)

    def arrange(self, x: Array) -> Array:
        """See `Backend`."""
        return x

    def empty_batch(self, shape: tuple[int, ...], dtype: str) -> Array:
        """See `Backend`; channels last in memory."""
        N, C, *size = shape
        return channels_second(self.xp.empty((N, *size, C), dtype))

    def divide(
        self, examples: int, work: int, numbers: int, parameters: int = 0, is_compiled: bool = False
    ) -> list[slice]:
        """See `Backend`; the batch stays whole."""
        return [slice(0, examples)]

    def pieces(self, count: int, elements: int) -> list[slice]:
        """See `Backend`; the axis stays whole."""
        return [slice(0, count)]

    def map(self, function: Callable[[slice], Result], chunks: list[slice]) -> list[Result]:
        """See `Backend`; one chunk after the other."""
        return [function(chunk) for chunk in chunks]


def backend_for(where: str | Array, *, tf32: bool = False) -> Backend:
    """Choose the backend of a device, or the one that an array belongs to.

    Parameters
    ----------
    where : {"cpu", "gpu", "auto"} or ndarray
        "auto" takes the GPU where one works and the CPU elsewhere.
    tf32 : bool
        Whether a GPU may round the factors of float32 products to TF32, 10 bits of fraction; sums
        stay float32.

    Returns
    -------
    Backend
        The same object for the same arguments.

    Raises
    ------
    UserError
        If the device is unknown, or tf32 is asked for on the CPU.
    UserTypeError
        If it is neither a device nor an array.
    DeviceError
        If "gpu" is asked for and CuPy or a usable GPU is missing.
    """
    if not isinstance(where, str):
        return _backend(array_module(where).__name__, tf32)
    check_choice("device", where, DEVICES)
    missing = "" if where == "cpu" else missing_gpu()
    if where == "gpu" and missing:
        raise DeviceError(f"device: 'gpu' was asked for, but {missing}. device=cpu needs no GPU.")
    return _backend("numpy" if where == "cpu" or missing else "cupy", tf32)


@cache
def _backend(library: str, tf32: bool) -> Backend:
    """Make a backend; the modules are imported only where they are needed."""
    if library == "numpy":
        from convae.engine.cpu.backend import NumpyBackend

        if tf32:
            raise DeviceError("tf32: only a GPU has it, and the device is the CPU; use tf32=false")
        return NumpyBackend()
    from convae.engine.gpu.backend import CupyBackend

    return CupyBackend(tf32)


def wide(array: Array) -> Array:
    """Convert an array of two-byte elements to float32, in which products and sums are computed."""
    return array if array.itemsize >= 4 else array.astype(np.float32)


def filters_first(memory: Array, axes: int) -> Array:
    """View (*tile, *kernel, C, O) as (O, *tile, C, *kernel)."""
    order = memory_order(memory.ndim, axes)
    return memory.transpose([order.index(axis) for axis in range(memory.ndim)])


def filters_last(K: Array, axes: int) -> Array:
    """View (O, *tile, C, *kernel) as (*tile, *kernel, C, O), the order of kernels in memory."""
    return K.transpose(memory_order(K.ndim, axes))


def memory_order(dimensions: int, axes: int) -> list[int]:
    """List the axes of a kernel (O, *tile, C, *kernel) in the order of its memory."""
    tiles = dimensions - axes - 2
    return [*range(1, 1 + tiles), *range(2 + tiles, dimensions), 1 + tiles, 0]


def channels_last(array: Array) -> Array:
    """View (N, C, *size) as (N, *size, C)."""
    return array.transpose(0, *range(2, array.ndim), 1)


def _in_windows(H: Array, window: Integers) -> list[Array]:
    """View each position of all windows: (N, O, *size) -> (N, O, *windows), row by row."""
    return [
        H[(..., *(slice(at, None, w) for at, w in zip(place, window, strict=True)))]
        for place in product(*map(range, window))
    ]


def channels_second(array: Array) -> Array:
    """View (N, *size, C) as (N, C, *size)."""
    return array.transpose(0, array.ndim - 1, *range(1, array.ndim - 1))


def copy_in_order(array: Array, to: Array) -> None:
    """Copy an array, such as one viewed channels last, to a contiguous one of its shape.

    NumPy goes along what it writes: where the last axis is short, and lies far apart in what it
    reads, one element after another is faster.
    """
    is_apart = array.strides[-1] > min(array.strides[:-1])
    if isinstance(array, np.ndarray) and array.shape[-1] <= SHORT_AXIS and is_apart:
        for n in range(array.shape[-1]):
            to[..., n] = array[..., n]
    else:
        to[...] = array


def examples_last(array: Array) -> Array:
    """View (N, C, *size) as (C, *size, N)."""
    return array.transpose(*range(1, array.ndim), 0)


def examples_first(array: Array) -> Array:
    """View (C, *size, N) as (N, C, *size)."""
    return array.transpose(array.ndim - 1, *range(array.ndim - 1))
