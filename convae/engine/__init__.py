"""The mathematics on arrays: c, h, g and rot180, on NumPy and CuPy."""

from convae.engine.arrays import Array, array_module, device_failures, missing_gpu, to_numpy
from convae.engine.backend import ArrayBackend, Backend, backend_for
from convae.engine.cpu.buffers import free_memory
from convae.engine.cpu.threads import get_num_threads, set_num_threads
from convae.engine.geometry import Geometry, resolve
from convae.engine.identity import trilinear_error
from convae.engine.linear import largest_singular_value, matrix, operator
from convae.engine.operations import c, g, h, rot180

__all__ = [
    "Array",
    "ArrayBackend",
    "Backend",
    "Geometry",
    "array_module",
    "backend_for",
    "c",
    "device_failures",
    "free_memory",
    "g",
    "get_num_threads",
    "h",
    "largest_singular_value",
    "matrix",
    "missing_gpu",
    "operator",
    "resolve",
    "rot180",
    "set_num_threads",
    "to_numpy",
    "trilinear_error",
]
