"""Which library an array belongs to, and whether a GPU is available."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from convae.errors import UserTypeError

Array: TypeAlias = Any
"""A ``numpy.ndarray`` or a ``cupy.ndarray``; its type selects the backend."""


def array_module(*arrays: Array, names: str = "arguments") -> ModuleType:
    """Return the library, NumPy or CuPy, that all the arrays belong to.

    Parameters
    ----------
    *arrays : ndarray
        NumPy or CuPy arrays of any shape.
    names : str
        Their names in error messages.

    Returns
    -------
    module
        ``numpy`` or ``cupy``. CuPy is not imported here: a CuPy array can only exist if the caller
        has imported it.

    Raises
    ------
    TypeError
        If an argument is not an array, or if NumPy and CuPy arrays are mixed: nothing is copied
        between host and device implicitly.
    """
    modules = set()
    for array in arrays:
        if isinstance(array, np.ndarray):
            modules.add("numpy")
        elif type(array).__module__.partition(".")[0] == "cupy":
            modules.add("cupy")
        else:
            raise UserTypeError(
                f"{names}: got {type(array).__module__}.{type(array).__qualname__}; "
                "expected a NumPy or CuPy array, as from numpy.asarray"
            )
    if len(modules) > 1:
        raise UserTypeError(
            f"{names}: NumPy and CuPy arrays are mixed; expected all on one device "
            "(use cupy.asarray or cupy.asnumpy)"
        )
    return sys.modules[modules.pop()]


def plain(name: str, array: Array) -> Array:
    """Check one array argument, and return it as an ordinary array of its library.

    Subclasses that only add behaviour, such as memory maps, become ordinary arrays without a copy;
    masked arrays and foreign byte orders are refused.
    """
    array_module(array, names=name)
    if isinstance(array, np.ma.MaskedArray):
        raise UserTypeError(f"{name}: a masked array; expected an ordinary one, as from .filled(0)")
    if not array.dtype.isnative:
        raise UserTypeError(
            f"{name}: dtype {array.dtype} has another machine's byte order; "
            f"expected .astype({array.dtype.newbyteorder('=').name!r})"
        )
    return np.asarray(array) if isinstance(array, np.ndarray) else array


def missing_gpu() -> str:
    """Explain why no GPU can be used and how to fix it; empty if one can."""
    try:
        import cupy
    except ImportError as error:
        if error.name == "cupy":
            return "CuPy is not installed; pip install 'convae[cuda13]' (or cuda12) installs it"
        reason = str(error).strip().partition("\n")[0]
        return f"CuPy cannot be imported ({reason}); its [ctk] extra installs the CUDA libraries"
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
            "CuPy finds no NVIDIA driver; install one and check it with nvidia-smi "
            "(a container has to be started with access to the GPU)"
        )
    if driver // 1000 < built // 1000:
        return (
            f"CuPy is built for CUDA {built // 1000} and the driver for CUDA {driver // 1000}; "
            f"update the driver or install cupy-cuda{driver // 1000}x instead"
        )
    return f"CuPy finds no usable NVIDIA GPU ({reason}); check with nvidia-smi"


def device_failures() -> tuple[type[Exception], ...]:
    """Return the errors by which a GPU fails for good; none where CuPy is not in use.

    Returns
    -------
    tuple of type
        For an ``except`` clause.
    """
    cupy = sys.modules.get("cupy")
    if cupy is None:
        return ()
    return cupy.cuda.runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError


def to_numpy(array: Array) -> np.ndarray[Any, Any]:
    """Return an array as a NumPy array, copied from the GPU if necessary.

    Parameters
    ----------
    array : ndarray
        A NumPy or CuPy array of any shape.

    Returns
    -------
    numpy.ndarray
        The same values; the array itself if it is a NumPy array.
    """
    return array if isinstance(array, np.ndarray) else array.get()
