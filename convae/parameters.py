"""A model's arrays laid out in one flat buffer, so that an optimizer sees a single vector.

And what is stored shorter than they are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import prod
from types import MappingProxyType, ModuleType
from typing import TypeAlias

from convae.engine import Array, filters_first

ALIGNMENT = 16
"""Elements to whose multiple each array's start is rounded up: 64 bytes of float32."""

STORAGES = ("float16", "bfloat16")

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


def stored_as(storage: str | None, dtype: str, device: str) -> str:
    """Check how activations are to be stored.

    Parameters
    ----------
    storage : {"float16", "bfloat16"} or None
        What was asked for; None is the parameters' type.
    dtype, device : str
        Type of the parameters, and where they live.

    Returns
    -------
    str
        The type of the activations.

    Raises
    ------
    ValueError
        If it is unknown, or there is no such thing for this type or on this device.
    """
    if storage is None:
        return dtype
    if storage not in STORAGES:
        raise ValueError(f"storage: {storage!r} is unknown; use {' or '.join(STORAGES)}")
    if device != "gpu" or dtype != "float32":
        raise ValueError(
            f"storage: {storage!r} is for float32 models on a GPU, and this one is {dtype} on the "
            f"{device}; leave it out"
        )
    if storage == "bfloat16":
        try:
            import ml_dtypes  # noqa: F401 - NumPy and CuPy know the name from now on
        except ImportError:
            raise ValueError("storage: 'bfloat16' needs ml_dtypes, which is missing") from None
    return storage
