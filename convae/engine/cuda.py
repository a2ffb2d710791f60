"""The kernels of `convae.engine.kernels`, launched on CuPy arrays.

Not in use yet: `convae.engine.gpu` computes without them until they have been run on a card. Arrays
are stored in float32, float16 or bfloat16, sums are float32. Nothing here calls cuBLAS, so all of
it can be captured in a CUDA graph.
"""

from __future__ import annotations

from functools import cache
from math import ceil, prod

import cupy
import numpy as np

from convae.engine import kernels
from convae.engine.arrays import Array
from convae.engine.geometry import Geometry

PARTS = 512
"""Blocks among which `edges_g` divides the rows of output positions; some for every processor."""


@cache
def _module(file: str, dtype: str, constants: tuple[tuple[str, object], ...]) -> Array:
    source = kernels.source(file, dtype, **dict(constants))
    return cupy.RawModule(code=source, options=("--std=c++17",))


def _launch(function: Array, work: int, *arguments: object) -> None:
    """Launch with a thread for each piece of work."""
    function((ceil(work / kernels.THREADS),), (kernels.THREADS,), arguments)


def _family(name: str, geometry: Geometry, channels: int, filters: int, array: Array) -> Array:
    constants = kernels.family_constants(geometry, channels, filters)
    module = _module("family", array.dtype.name, tuple(constants.items()))
    return module.get_function(name)


def _edges(name: str, geometry: Geometry, channels: int, filters: int, array: Array) -> Array:
    constants = kernels.edges_constants(geometry, channels, filters)
    module = _module("edges", array.dtype.name, tuple(constants.items()))
    return module.get_function(name)


def c(K: Array, V: Array, geometry: Geometry) -> Array:
    """Strided convolution, of the whole family; see `convae.engine.gpu.c`.

    Parameters
    ----------
    K : (O, [*tile,] C/groups, *kernel) ndarray
        The kernel.
    V : (C, *size, N) ndarray
        The input.
    geometry : Geometry
        The resolved geometry.

    Returns
    -------
    (O, *output, N) ndarray
        Z.
    """
    C, O, N = V.shape[0], K.shape[0], V.shape[-1]
    K, V = cupy.ascontiguousarray(K), cupy.ascontiguousarray(V)
    Z = cupy.empty((O, *geometry.output, N), V.dtype)
    parts = geometry.groups * ceil(O // geometry.groups / kernels.FILTERS)
    function = _family("c", geometry, C, O, V)
    _launch(function, parts * prod(geometry.output) * N, K, V, Z, np.int32(N))
    return Z


def h(K: Array, G: Array, geometry: Geometry) -> Array:
    """Transposed convolution, of the whole family; see `convae.engine.gpu.h`.

    Parameters
    ----------
    K : (O, [*tile,] C/groups, *kernel) ndarray
        The kernel.
    G : (O, *output, N) ndarray
        What lies on the output side.
    geometry : Geometry
        The resolved geometry.

    Returns
    -------
    (C, *size, N) ndarray
        V'.
    """
    per_group, O, N = K.shape[-geometry.axes - 1], K.shape[0], G.shape[-1]
    C = per_group * geometry.groups
    K, G = cupy.ascontiguousarray(K), cupy.ascontiguousarray(G)
    V = cupy.empty((C, *geometry.size, N), G.dtype)
    parts = geometry.groups * ceil(per_group / kernels.FILTERS)
    function = _family("h", geometry, C, O, G)
    _launch(function, parts * prod(geometry.size) * N, K, G, V, np.int32(N))
    return V


def g(G: Array, V: Array, K_shape: tuple[int, ...], geometry: Geometry) -> Array:
    """Gradient of the kernel, of the whole family; see `convae.engine.gpu.g`.

    Parameters
    ----------
    G : (O, *output, N) ndarray
        What lies on the output side.
    V : (C, *size, N) ndarray
        What lies on the input side.
    K_shape : tuple of int
        Shape of the result.
    geometry : Geometry
        The resolved geometry.

    Returns
    -------
    ndarray of float32
        dK of the shape K_shape.
    """
    C, O, N = V.shape[0], G.shape[0], V.shape[-1]
    G, V = cupy.ascontiguousarray(G), cupy.ascontiguousarray(V)
    dK = cupy.empty(K_shape, np.float32)
    function = _family("g", geometry, C, O, V)
    function((prod(K_shape),), (kernels.THREADS,), (G, V, dK, np.int32(N)))
    return dK


def edges_c(K: Array, V: Array, geometry: Geometry) -> Array:
    """Strided convolution of one to four channels; see `convae.engine.kernels.suits_edges`.

    Parameters
    ----------
    K : (*kernel, C, O) ndarray
        The kernel.
    V : (N, *size, C) ndarray
        The input.
    geometry : Geometry
        The resolved geometry.

    Returns
    -------
    (N, *output, O) ndarray
        Z.
    """
    N, C, O = len(V), V.shape[-1], K.shape[-1]
    Z = cupy.empty((N, *geometry.output, O), V.dtype)
    function = _edges("c", geometry, C, O, V)
    _launch(function, Z.size // kernels.FILTERS, K, V, Z, np.int32(N))
    return Z


def edges_h(K: Array, G: Array, geometry: Geometry) -> Array:
    """Transposed convolution to one to four channels.

    Parameters
    ----------
    K : (*kernel, C, O) ndarray
        The kernel.
    G : (N, *output, O) ndarray
        What lies on the output side.
    geometry : Geometry
        The resolved geometry.

    Returns
    -------
    (N, *size, C) ndarray
        V'.
    """
    N, C, O = len(G), K.shape[-2], K.shape[-1]
    V = cupy.empty((N, *geometry.size, C), G.dtype)
    _launch(_edges("h", geometry, C, O, G), V.size // C, K, G, V, np.int32(N))
    return V


def edges_g(G: Array, V: Array, geometry: Geometry) -> Array:
    """Gradient of a kernel of one to four channels.

    Parameters
    ----------
    G : (N, *output, O) ndarray
        What lies on the output side.
    V : (N, *size, C) ndarray
        What lies on the input side.
    geometry : Geometry
        The resolved geometry.

    Returns
    -------
    (*kernel, C, O) ndarray
        dK, the parts' sums added in their order.
    """
    N, C, O = len(G), V.shape[-1], G.shape[-1]
    parts = min(PARTS, N * geometry.output[0])
    dK = cupy.empty((*geometry.kernel, C, O), np.float32)
    partial = cupy.empty((parts, dK.size), np.float32)
    block = O // kernels.FILTERS, geometry.kernel[0]
    _edges("g", geometry, C, O, V)((parts,), block, (G, V, partial, np.int32(N)))
    _launch(_edges("add", geometry, C, O, V), dK.size, partial, dK, np.int32(parts))
    return dK


def gather(images: Array, chosen: Array, dtype: str = "float32") -> Array:
    """Fetch images that stay on the card and scale them to [0, 1].

    Parameters
    ----------
    images : (M, ...) ndarray of uint8
        All images.
    chosen : (N,) ndarray of int64
        Which of them.
    dtype : {"float32", "float16", "bfloat16"}
        How the batch is stored.

    Returns
    -------
    (N, ...) ndarray
        The batch.
    """
    x = cupy.empty((len(chosen), *images.shape[1:]), dtype)
    function = _module("step", dtype, ()).get_function("gather")
    _launch(function, x.size, images, chosen, x, np.int64(images[0].size), np.int64(x.size))
    return x


class Adam:
    """Adam and AdamW on the card: its step count and learning rate are in device memory.

    A captured graph therefore goes on counting, and a schedule only writes `learning_rate`.

    Parameters
    ----------
    size : int
        Parameters.
    beta1, beta2, epsilon : float
        As in `convae.Adam`.
    gradient_decay : float
        Weight decay of `convae.Adam`, an L2 penalty.
    parameter_decay : float
        Weight decay of `convae.AdamW`.

    Attributes
    ----------
    first, second : (size,) ndarray of float32
        The moments.
    steps : (1,) ndarray of int64
        Updates done.
    learning_rate : (1,) ndarray of float32
        Size of a step.
    """

    def __init__(
        self,
        size: int,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        gradient_decay: float = 0.0,
        parameter_decay: float = 0.0,
    ) -> None:
        self.first, self.second = cupy.zeros(size, np.float32), cupy.zeros(size, np.float32)
        self.steps = cupy.zeros(1, np.int64)
        self.learning_rate = cupy.full(1, 1e-3, np.float32)
        numbers = beta1, beta2, epsilon, gradient_decay, parameter_decay
        self._numbers = tuple(map(np.float32, numbers))

    def update(self, parameters: Array, gradients: Array) -> None:
        """Change the parameters, in two launches.

        Parameters
        ----------
        parameters : (size,) ndarray of float32
            Overwritten.
        gradients : (size,) ndarray of float32
            Their gradients.
        """
        arrays = parameters, gradients, self.first, self.second, self.steps, self.learning_rate
        module, size = _module("step", "float32", ()), int(parameters.size)
        _launch(module.get_function("adam"), size, *arrays, *self._numbers, np.int64(size))
        module.get_function("count")((1,), (1,), (self.steps,))
