"""The mathematics on arrays: c, h, g and rot180, on NumPy and CuPy."""

from convae.engine.arrays import Array, array_module, missing_gpu, to_numpy
from convae.engine.backend import ArrayBackend, Backend, backend_for
from convae.engine.geometry import Geometry, resolve
from convae.engine.identity import trilinear_error
from convae.engine.operations import c, g, h, rot180

__all__ = [
    "Array",
    "ArrayBackend",
    "Backend",
    "Geometry",
    "array_module",
    "backend_for",
    "c",
    "g",
    "h",
    "missing_gpu",
    "resolve",
    "rot180",
    "to_numpy",
    "trilinear_error",
]
