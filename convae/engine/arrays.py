"""Which library an array belongs to, and whether there is a GPU to compute on."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from convae.errors import UserTypeError

Array: TypeAlias = Any
"""A ``numpy.ndarray`` or a ``cupy.ndarray``; the array decides the backend."""


def array_module(*arrays: Array, names: str = "arguments") -> ModuleType:
    """Return the library, NumPy or CuPy, that all the arrays belong to.

    Parameters
    ----------
    *arrays : ndarray
        NumPy or CuPy arrays of any shape.
    names : str
        How the error calls them.

    Returns
    -------
    module
        ``numpy`` or ``cupy``. CuPy is never imported here: an array of it can only exist once the
        caller has imported it.

    Raises
    ------
    TypeError
        If one is no array at all, or if NumPy and CuPy arrays are mixed: nothing is copied between
        host and device behind the caller's back.
    """
    modules = set()
    for array in arrays:
        root = type(array).__module__.partition(".")[0]
        if isinstance(array, np.ndarray):
            modules.add("numpy")
        elif root == "cupy":
            modules.add("cupy")
        else:
            raise UserTypeError(
                f"{names}: got {type(array).__module__}.{type(array).__qualname__}, "
                "which is neither a NumPy nor a CuPy array; convert it with numpy.asarray"
            )
    if len(modules) > 1:
        raise UserTypeError(
            f"{names}: NumPy and CuPy arrays are mixed; move all of them to one device "
            "(cupy.asarray or cupy.asnumpy)"
        )
    return sys.modules[modules.pop()]


def missing_gpu() -> str:
    """Say what is missing for computing on a GPU, and what would help."""
    try:
        import cupy
    except ImportError as error:
        if error.name == "cupy":
            return "CuPy is not installed; pip install 'convae[cuda13]' (or cuda12) brings it"
        reason = str(error).strip().partition("\n")[0]
        return f"CuPy cannot be imported ({reason}); its [ctk] extra brings CUDA's libraries"
    runtime = cupy.cuda.runtime
    try:
        if runtime.getDeviceCount() > 0:
            return ""
        reason = "no device"
    except runtime.CUDARuntimeError as error:
        reason = str(error)
    built, driver = runtime.runtimeGetVersion(), runtime.driverGetVersion()
    if driver == 0:
        return (
            "CuPy finds no NVIDIA driver; once it is installed, nvidia-smi lists the card "
            "(in a container, start that with its GPUs)"
        )
    if driver // 1000 < built // 1000:
        return (
            f"CuPy is built for CUDA {built // 1000} and the driver is for CUDA {driver // 1000}; "
            f"update the driver, or install cupy-cuda{driver // 1000}x instead"
        )
    return f"CuPy finds no usable NVIDIA GPU ({reason}); check with nvidia-smi"


def to_numpy(array: Array) -> np.ndarray[Any, Any]:
    """Return the array as a NumPy array, copied from the GPU where it lies there.

    Parameters
    ----------
    array : ndarray
        A NumPy or CuPy array of any shape.

    Returns
    -------
    numpy.ndarray
        The same values; the array itself if it is NumPy's.
    """
    return array if isinstance(array, np.ndarray) else array.get()
