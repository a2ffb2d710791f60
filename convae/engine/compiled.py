"""How functions of the CPU engine are compiled by Numba.

Importing this module imports Numba, which takes a while: only what computes imports it, when it is
first needed. Compiled functions are kept on disk between runs where there is a place for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import llvmlite.binding as llvm
import numba

Function = TypeVar("Function", bound=Callable[..., Any])

AVX512 = bool(llvm.get_host_cpu_features().get("avx512f"))

if AVX512:  # LLVM would rather use half of each register
    numba.config.CPU_NAME = llvm.get_host_cpu_name()
    numba.config.CPU_FEATURES = llvm.get_host_cpu_features().flatten() + ",-prefer-256-bit"


def compiled(function: Function) -> Function:
    """Compile a function at its first call, for each set of argument types.

    It runs without the interpreter's lock. Sums may be reordered so that they fit vectors, in the
    same way on every run; what is not a number stays so.

    Parameters
    ----------
    function : callable
        Plain loops over arrays and numbers.

    Returns
    -------
    callable
        The same function, compiled.
    """
    how = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "nsz", "contract"}}
    try:
        return numba.njit(function, cache=True, **how)  # type: ignore[no-any-return]
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return numba.njit(function, **how)  # type: ignore[no-any-return]


def inlined(function: Function) -> Function:
    """Write a function into those compiled ones that call it; what they know, it knows.

    Parameters
    ----------
    function : callable
        Plain loops over arrays and numbers.

    Returns
    -------
    callable
        The same function, to be called by compiled ones.
    """
    return numba.njit(function, inline="always")  # type: ignore[no-any-return]
