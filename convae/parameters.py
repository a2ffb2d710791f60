"""A model's arrays laid out in one flat buffer, so that an optimizer sees a single vector."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import prod
from types import MappingProxyType, ModuleType
from typing import TypeAlias

from convae.engine import Array, filters_first

ALIGNMENT = 16
"""Elements to whose multiple each array's start is rounded up: 64 bytes of float32."""

Arrays: TypeAlias = Mapping[str, Array]


def allocate(
    xp: ModuleType,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: str,
    filters_last: Collection[str] = (),
) -> tuple[Array, Arrays]:
    """Lay out named arrays of zeros, end to end in one buffer.

    Parameters
    ----------
    xp : module
        ``numpy`` or ``cupy``.
    shapes : mapping
        Shape of each array, in the order of the layout.
    dtype : str
        Type of the elements.
    filters_last : collection of str
        Those of them that are kernels (O, C, *kernel) and lie (*kernel, C, O) in memory.

    Returns
    -------
    flat : (M,) ndarray
        The buffer. The few elements between two arrays stay zero.
    arrays : mapping
        The named arrays, views on the buffer. The mapping is read-only, the arrays are not.
    """
    starts = {}
    end = 0
    for name, shape in shapes.items():
        starts[name] = end
        end += -(-prod(shape) // ALIGNMENT) * ALIGNMENT
    flat = xp.zeros(end, dtype)
    views = {}
    for name, shape in shapes.items():
        elements = flat[starts[name] : starts[name] + prod(shape)]
        if name in filters_last:
            O, C, *kernel = shape
            views[name] = filters_first(elements.reshape(*kernel, C, O))
        else:
            views[name] = elements.reshape(shape)
    return flat, MappingProxyType(views)
