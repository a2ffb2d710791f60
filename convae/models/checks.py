"""What a model refuses, and what it warns of: arrays, types and values that do not fit it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from convae.engine import Array, Backend, array_module
from convae.engine.arrays import plain
from convae.engine.geometry import per_axis
from convae.errors import UserError, UserTypeError, check_choice
from convae.models.activations import Activation

DTYPES = ("float32", "float64")
STORAGES = ("float16", "bfloat16")


def dtype_name(dtype: Any) -> str:
    """Accept a dtype by its name or as NumPy's type."""
    name = dtype if isinstance(dtype, str) else getattr(np.dtype(dtype), "name", dtype)
    check_choice("dtype", name, DTYPES)
    return str(name)


def input_shape_of(shape: Any) -> tuple[int, ...]:
    """Accept the shape of one example, (C, *size)."""
    if isinstance(shape, np.ndarray):
        shape = shape.tolist()
    if not isinstance(shape, Sequence) or not 2 <= len(shape) <= 4:
        raise UserError(
            f"input_shape: {shape!r} is not (channels, *positions) with 1 to 3 axes of positions"
        )
    return per_axis("input_shape", tuple(shape), len(shape))


def check_storage(storage: str | None, dtype: str, backend: Backend) -> None:
    """Refuse a storage that there is not, and load the type where it is an extension's."""
    if storage is None:
        return
    check_choice("storage", storage, STORAGES)
    if storage not in backend.dtypes or dtype != "float32":
        raise UserError(
            f"storage: {storage!r} is for float32 models on a GPU, and this one is "
            f"{dtype} on the {backend.device}; leave it out"
        )
    if storage == "bfloat16":
        try:
            import ml_dtypes  # noqa: F401 - NumPy and CuPy know the name from now on
        except ImportError:
            raise UserError("storage: 'bfloat16' needs the package ml_dtypes") from None


def check_array(
    name: str,
    array: Array,
    shape: tuple[int, ...],
    dtype: str,
    backend: Backend,
    at_least: int = 0,
) -> Array:
    """Refuse what a model does not take, and return the rest as an ordinary array."""
    array = plain(name, array)
    module = array_module(array)
    if module is not backend.xp:
        raise UserTypeError(
            f"{name}: a {module.__name__} array, but the model lives on the {backend.device}; "
            f"convert it with {backend.xp.__name__}.asarray, or build the model with device="
        )
    if array.dtype != dtype:
        raise UserTypeError(
            f"{name}: dtype {array.dtype}, but the model's is {dtype}; convert it with "
            f".astype('{dtype}')" + (" / 255" if array.dtype == np.uint8 else "")
        )
    if array.ndim != len(shape) + 1 or array.shape[1:] != shape or len(array) < at_least:
        least = " with at least one example" if at_least else ""
        raise UserError(
            f"{name}: shape {array.shape}, but the model takes "
            f"(N, {', '.join(map(str, shape))}){least}{_hint(array, shape)}"
        )
    return array


def _hint(array: Array, shape: tuple[int, ...]) -> str:
    """Guess what a wrong shape means."""
    if array.shape == shape:
        return "; this is a single example: give it an axis of examples, x[None]"
    if array.shape[1:] == (*shape[1:], shape[0]):
        return "; this looks channels-last: numpy.moveaxis(x, -1, 1)"
    return ""


def warn_of_range(name: str, x: Array, f_out: Activation, stacklevel: int) -> None:
    """Warn of values that the output activation cannot reach, or of NaN."""
    if not len(x):
        return
    low, high = f_out.range
    least, largest = float(x.min()), float(x.max())
    if low <= least and largest <= high:  # false where either is NaN
        return
    if not least <= largest:
        warnings.warn(f"{name}: has values that are no numbers (NaN)", stacklevel=stacklevel + 1)
        return
    warnings.warn(
        f"{name}: values range from {least:g} to {largest:g}, but output_activation "
        f"{f_out.name!r} only ranges from {low:g} to {high:g}; scale the images, or use 'identity'",
        stacklevel=stacklevel + 1,
    )
