"""The mathematics on arrays: c, h, g and rot180, on NumPy and CuPy."""

from convae.engine.arrays import Array, array_module, module_for, to_numpy
from convae.engine.geometry import Geometry, resolve
from convae.engine.identity import trilinear_error
from convae.engine.operations import c, g, h, rot180
from convae.engine.parallel import over, parts_of_batch

__all__ = [
    "Array",
    "Geometry",
    "array_module",
    "c",
    "g",
    "h",
    "module_for",
    "over",
    "parts_of_batch",
    "resolve",
    "rot180",
    "to_numpy",
    "trilinear_error",
]
