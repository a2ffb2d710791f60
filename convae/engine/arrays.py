"""Which array library an array belongs to, and the way from one device to another."""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = Any
"""A ``numpy.ndarray`` or a ``cupy.ndarray``; the array decides the backend."""

DEVICES = ("cpu", "gpu", "auto")


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
            raise TypeError(
                f"{names}: got {type(array).__module__}.{type(array).__qualname__}, "
                "which is neither a NumPy nor a CuPy array; convert it with numpy.asarray"
            )
    if len(modules) > 1:
        raise TypeError(
            f"{names}: NumPy and CuPy arrays are mixed; move all of them to one device "
            "(cupy.asarray or cupy.asnumpy)"
        )
    return sys.modules[modules.pop()]


def module_for(device: str) -> ModuleType:
    """Return the array library that serves a device.

    Parameters
    ----------
    device : {"cpu", "gpu", "auto"}
        "auto" takes the GPU where one works and the CPU elsewhere.

    Returns
    -------
    module
        ``numpy`` or ``cupy``.

    Raises
    ------
    ValueError
        If the device is none of the three.
    RuntimeError
        If "gpu" was asked for and CuPy or a usable GPU is missing.
    """
    if device not in DEVICES:
        raise ValueError(f"device: {device!r} is unknown; use one of {', '.join(DEVICES)}")
    if device == "cpu":
        return np
    missing = missing_gpu()
    if not missing:
        import cupy

        return cupy  # type: ignore[no-any-return]
    if device == "auto":
        return np
    raise RuntimeError(f"device: 'gpu' was asked for, but {missing}. device=cpu needs no GPU.")


def missing_gpu() -> str:
    """Say what is missing for computing on a GPU, and what would help.

    Returns
    -------
    str
        A clause without a full stop; empty where a GPU works.
    """
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


def allow_tf32(allowed: bool) -> None:
    """Let the GPU round the factors of float32 products to TF32, 10 bits of fraction, or not.

    CuPy reads it at its first product: call this before.

    Parameters
    ----------
    allowed : bool
        Sums are float32 either way.
    """
    os.environ["CUPY_TF32"] = str(int(allowed))


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


def positions_first(array: Array) -> Array:
    """Copy a batch into the memory order that the CPU engine computes in, unless it has it already.

    Parameters
    ----------
    array : (N, C, *size) ndarray
        A batch.

    Returns
    -------
    (N, C, *size) ndarray
        The same values, in memory ``(*size, C, N)``; on a GPU the array itself.
    """
    if not isinstance(array, np.ndarray):
        return array
    axes = range(2, array.ndim)
    lying = np.ascontiguousarray(array.transpose(*axes, 1, 0))
    return lying.transpose(array.ndim - 1, array.ndim - 2, *range(array.ndim - 2))


def filters_first(array: Array) -> Array:
    """View a kernel that lies filters last, as the CPU engine reads and makes shared kernels.

    Parameters
    ----------
    array : (*kernel, C, O) ndarray
        The kernel.

    Returns
    -------
    (O, C, *kernel) ndarray
        The same memory.
    """
    axes = array.ndim - 2
    return array.transpose(axes + 1, axes, *range(axes))


def rows(*arrays: Array) -> list[np.ndarray[Any, Any]] | None:
    """Show batches that lie positions first in memory, as `c` and `h` return them, as rows.

    Parameters
    ----------
    *arrays : (N, C, *size) ndarray
        Batches.

    Returns
    -------
    list of (P, C, N) ndarray or None
        Views for the compiled passes of `pointwise`; None if any lies otherwise, or on a GPU.
    """
    shown = []
    for array in arrays:
        if not isinstance(array, np.ndarray) or array.ndim < 3 or array.itemsize < 4:
            return None
        lying = array.transpose(*range(2, array.ndim), 1, 0)
        if not lying.flags.c_contiguous:
            return None
        shown.append(lying.reshape(-1, array.shape[1], array.shape[0]))
    return shown
