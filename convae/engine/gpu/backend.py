"""The CuPy backend: the portable array code on a GPU, on the whole batch at once.

Imported only if a GPU is requested or a CuPy array is passed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import cupy
import numpy as np

from convae.engine.arrays import Array
from convae.engine.backend import ArrayBackend
from convae.engine.geometry import Geometry

TF32_TOLERANCE = 1e-3


class CupyBackend(ArrayBackend):
    """c, h and g by cuBLAS on unfolded columns; `tf32` lets it round float32 factors to TF32."""

    xp = cupy
    device = "gpu"
    dtypes: tuple[str, ...] = ("float16", "bfloat16", "float32", "float64")

    def __init__(self, tf32: bool = False) -> None:
        self.tf32 = tf32

    @property
    def tolerance(self) -> dict[str, float]:
        """See `convae.engine.backend.Backend`."""
        rounding = super().tolerance
        return rounding | {"float32": TF32_TOLERANCE} if self.tf32 else rounding

    def c(self, K: Array, V: Array, geometry: Geometry) -> Array:
        """See `convae.engine.backend.Backend`."""
        with self._products():
            return super().c(K, V, geometry)

    def h(self, K: Array, G: Array, geometry: Geometry) -> Array:
        """See `convae.engine.backend.Backend`."""
        with self._products():
            return super().h(K, G, geometry)

    def g(self, G: Array, V: Array, K_shape: tuple[int, ...], geometry: Geometry) -> Array:
        """See `convae.engine.backend.Backend`."""
        with self._products():
            return super().g(G, V, K_shape, geometry)

    @contextmanager
    def _products(self) -> Iterator[None]:
        """Set cuBLAS to this backend's precision; the setting in CuPy is process-wide."""
        linalg = cupy._core._routines_linalg
        before = linalg.get_compute_type(np.float32)
        wanted = linalg.COMPUTE_TYPE_TF32 if self.tf32 else linalg.COMPUTE_TYPE_DEFAULT
        linalg.set_compute_type(np.float32, wanted)
        try:
            yield
        finally:
            linalg.set_compute_type(np.float32, before)
