"""How functions of the CPU backend are compiled by Numba.

Importing this module imports Numba, which takes a while, so it is imported when it is first needed.
Compiled functions are cached on disk, where a cache folder can be written.
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

    It runs without the interpreter's lock. Sums may be reordered for vectorisation, in the same way
    on every run; NaN and infinity are respected.
    """
    how = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "nsz", "contract"}}
    try:
        return numba.njit(function, cache=True, **how)  # type: ignore[no-any-return]
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return numba.njit(function, **how)  # type: ignore[no-any-return]


def inline(function: Function) -> Function:
    """Inline a function into the compiled functions that call it."""
    return numba.njit(function, inline="always")  # type: ignore[no-any-return]
