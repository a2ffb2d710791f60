"""A model's arrays laid out in one flat buffer, so that an optimizer sees a single vector."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import prod
from types import MappingProxyType
from typing import TypeAlias

from convae.engine import Array, Backend

ALIGNMENT = 16
"""Each array's start is rounded up to a multiple of so many elements: 64 bytes of float32."""

Arrays: TypeAlias = Mapping[str, Array]


def allocate(
    backend: Backend,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: str,
    kernels: Collection[str] = (),
) -> tuple[Array, Arrays]:
    """Lay out named arrays of zeros, end to end in one buffer.

    Parameters
    ----------
    backend : Backend
        Provides the memory, and the order in which shared kernels lie in it.
    shapes : mapping
        Shape of each array, in the order of the layout.
    dtype : str
        Type of the elements.
    kernels : collection of str
        Which of them are shared kernels (O, C, *kernel).

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
        end += _aligned(shape)
    flat = backend.xp.zeros(end, dtype)
    views = {}
    for name, shape in shapes.items():
        elements = flat[starts[name] : starts[name] + prod(shape)]
        is_kernel = name in kernels
        views[name] = backend.kernel_view(elements, shape) if is_kernel else elements.reshape(shape)
    return flat, MappingProxyType(views)


def flat_size(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return the length of the buffer that `allocate` makes for arrays of these shapes."""
    return sum(map(_aligned, shapes.values()))


def _aligned(shape: tuple[int, ...]) -> int:
    return -(-prod(shape) // ALIGNMENT) * ALIGNMENT


def per_layer(arrays: Arrays) -> list[Arrays]:
    """Group arrays named "0.kernel" by layer, under the layers' own names for them."""
    grouped: dict[str, dict[str, Array]] = {}
    for name, array in arrays.items():
        index, _, own = name.partition(".")
        grouped.setdefault(index, {})[own] = array
    return list(grouped.values())
