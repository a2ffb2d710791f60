"""The mathematics on arrays: c, h, g and rot180, on NumPy and CuPy."""

from convae.engine.arrays import (
    Array,
    allow_tf32,
    array_module,
    filters_first,
    missing_gpu,
    module_for,
    positions_first,
    rows,
    to_numpy,
)
from convae.engine.cpu import compiled_passes
from convae.engine.geometry import Geometry, resolve
from convae.engine.identity import trilinear_error
from convae.engine.operations import c, g, h, rot180
from convae.engine.parallel import over, parts_of_batch

__all__ = [
    "Array",
    "Geometry",
    "allow_tf32",
    "array_module",
    "c",
    "compiled_passes",
    "filters_first",
    "g",
    "h",
    "missing_gpu",
    "module_for",
    "over",
    "parts_of_batch",
    "positions_first",
    "resolve",
    "rot180",
    "rows",
    "to_numpy",
    "trilinear_error",
]
