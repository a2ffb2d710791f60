"""A backend of custom CUDA kernels: `convae.engine.gpu.kernels`, launched on CuPy arrays.

Implemented and tested with the pretend GPU, disabled until certified on hardware: `backend_for`
never returns it. Arrays are stored in float32, float16 or bfloat16; sums are float32. Nothing here
calls cuBLAS, so everything can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from math import ceil, prod
from typing import Any

import numpy as np

from convae.engine.arrays import Array
from convae.engine.backend import ArrayBackend, examples_first, examples_last
from convae.engine.geometry import Geometry
from convae.engine.gpu import kernels

GRADIENT_BLOCKS = 512
"""Blocks that share the rows of output positions in `edges_g`; a few per multiprocessor."""


class KernelBackend(ArrayBackend):
    """c, h and g by CUDA kernels for every geometry; `xp` is CuPy."""

    device = "gpu"
    dtypes: tuple[str, ...] = ("float16", "bfloat16", "float32")

    def __init__(self, xp: Any) -> None:
        self.xp = xp

    def c(self, K: Array, V: Array, geometry: Geometry) -> Array:
        """See `convae.engine.backend.Backend`."""
        K, V = (self.xp.ascontiguousarray(array) for array in (K, examples_last(V)))
        C, O, N = V.shape[0], K.shape[0], V.shape[-1]
        Z = self.xp.empty((O, *geometry.output, N), V.dtype)
        groups = geometry.groups * ceil(O // geometry.groups / kernels.FILTERS)
        function = self._family("c", geometry, C, O, V)
        _launch(function, groups * prod(geometry.output) * N, K, V, Z, np.int32(N))
        return examples_first(Z)

    def h(self, K: Array, G: Array, geometry: Geometry) -> Array:
        """See `convae.engine.backend.Backend`."""
        K, G = (self.xp.ascontiguousarray(array) for array in (K, examples_last(G)))
        per_group, O, N = K.shape[-geometry.axes - 1], K.shape[0], G.shape[-1]
        C = per_group * geometry.groups
        V = self.xp.empty((C, *geometry.size, N), G.dtype)
        groups = geometry.groups * ceil(per_group / kernels.FILTERS)
        function = self._family("h", geometry, C, O, G)
        _launch(function, groups * prod(geometry.size) * N, K, G, V, np.int32(N))
        return examples_first(V)

    def g(self, G: Array, V: Array, K_shape: tuple[int, ...], geometry: Geometry) -> Array:
        """See `convae.engine.backend.Backend`; dK is float32."""
        G, V = (self.xp.ascontiguousarray(examples_last(array)) for array in (G, V))
        C, O, N = V.shape[0], G.shape[0], V.shape[-1]
        dK = self.xp.empty(K_shape, np.float32)
        function = self._family("g", geometry, C, O, V)
        function((prod(K_shape),), (kernels.THREADS,), (G, V, dK, np.int32(N)))
        return dK

    def edges_c(self, K: Array, V: Array, geometry: Geometry) -> Array:
        """Compute c for one to four channels (see `kernels.suits_edges`), channels last in memory.

        K (*kernel, C, O); V (N, *size, C) -> (N, *output, O)
        """
        N, C, O = len(V), V.shape[-1], K.shape[-1]
        Z = self.xp.empty((N, *geometry.output, O), V.dtype)
        function = self._edges("c", geometry, C, O, V)
        _launch(function, Z.size // kernels.FILTERS, K, V, Z, np.int32(N))
        return Z

    def edges_h(self, K: Array, G: Array, geometry: Geometry) -> Array:
        """Compute h for one to four channels, channels last in memory.

        K (*kernel, C, O); G (N, *output, O) -> (N, *size, C)
        """
        N, C, O = len(G), K.shape[-2], K.shape[-1]
        V = self.xp.empty((N, *geometry.size, C), G.dtype)
        _launch(self._edges("h", geometry, C, O, G), V.size // C, K, G, V, np.int32(N))
        return V

    def edges_g(self, G: Array, V: Array, geometry: Geometry) -> Array:
        """Compute g for one to four channels; partial sums are added in block order.

        G (N, *output, O); V (N, *size, C) -> (*kernel, C, O)
        """
        N, C, O = len(V), V.shape[-1], G.shape[-1]
        blocks = min(GRADIENT_BLOCKS, N * geometry.output[0])
        dK = self.xp.empty((*geometry.kernel, C, O), np.float32)
        partial = self.xp.empty((blocks, dK.size), np.float32)
        block = O // kernels.FILTERS, geometry.kernel[0]
        self._edges("g", geometry, C, O, V)((blocks,), block, (G, V, partial, np.int32(N)))
        _launch(self._edges("add", geometry, C, O, V), dK.size, partial, dK, np.int32(blocks))
        return dK

    def gather(self, images: Array, chosen: Array, dtype: str = "float32") -> Array:
        """Gather images from device memory and scale them to [0, 1].

        images (M, ...) of uint8; chosen (N,) of int64 -> (N, ...)
        """
        x = self.xp.empty((len(chosen), *images.shape[1:]), dtype)
        function = self.kernel("step", dtype, "gather")
        _launch(function, x.size, images, chosen, x, np.int64(images[0].size), np.int64(x.size))
        return x

    def kernel(
        self, file: str, dtype: str, name: str, constants: Mapping[str, object] | None = None
    ) -> Any:
        """Compile a file of `kernels` once per set of constants and return one of its kernels."""
        module = _module(self.xp.RawModule, file, dtype, tuple((constants or {}).items()))
        return module.get_function(name)

    def _family(self, name: str, geometry: Geometry, C: int, O: int, array: Array) -> Any:
        constants = kernels.family_constants(geometry, C, O)
        return self.kernel("family", array.dtype.name, name, constants)

    def _edges(self, name: str, geometry: Geometry, C: int, O: int, array: Array) -> Any:
        constants = kernels.edges_constants(geometry, C, O)
        return self.kernel("edges", array.dtype.name, name, constants)


@cache
def _module(compiler: Any, file: str, dtype: str, constants: tuple[tuple[str, object], ...]) -> Any:
    return compiler(code=kernels.source(file, dtype, **dict(constants)), options=("--std=c++17",))


def _launch(function: Any, work: int, *arguments: object) -> None:
    """Launch with one thread per work item."""
    function((ceil(work / kernels.THREADS),), (kernels.THREADS,), arguments)


class Adam:
    """Adam and AdamW on the GPU, on `size` parameters; see `convae.Adam` and `convae.AdamW`."""

    def __init__(
        self,
        backend: KernelBackend,
        size: int,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        gradient_decay: float = 0.0,  # weight decay of `convae.Adam`, an L2 penalty
        parameter_decay: float = 0.0,  # weight decay of `convae.AdamW`
    ) -> None:
        xp = backend.xp
        self._backend = backend
        # Step count and learning rate are in device memory, so that a captured graph can advance
        # the step count and a schedule can change the learning rate.
        self.first, self.second = xp.zeros(size, np.float32), xp.zeros(size, np.float32)
        self.steps = xp.zeros(1, np.int64)
        self.learning_rate = xp.full(1, 1e-3, np.float32)
        self._corrections = xp.empty(2, np.float32)
        self._betas = np.float64(beta1), np.float64(beta2)
        rests = 1 - beta1, 1 - beta2
        numbers = beta1, beta2, *rests, epsilon, gradient_decay, parameter_decay
        self._numbers = tuple(map(np.float32, numbers))

    def update(self, parameters: Array, gradients: Array) -> None:
        """Update the parameters in place, in two launches.

        parameters, gradients (size,) of float32
        """
        moments, size = (self.first, self.second), int(parameters.size)
        adam, count = (self._backend.kernel("step", "float32", name) for name in ("adam", "count"))
        count((1,), (1,), (self.steps, self._corrections, *self._betas))
        arrays = parameters, gradients, *moments, self._corrections, self.learning_rate
        _launch(adam, size, *arrays, *self._numbers, np.int64(size))
