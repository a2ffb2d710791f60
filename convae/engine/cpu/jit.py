"""Numba settings for the compiled functions of the CPU backend.

Importing this module imports Numba, which is slow, so import it only where it is needed. Compiled
functions are cached on disk if a cache folder is writable.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import llvmlite.binding as llvm
import numba
from numba.core.compiler import Compiler

Function = TypeVar("Function", bound=Callable[..., Any])

AVX512 = bool(llvm.get_host_cpu_features().get("avx512f"))

if AVX512:  # by default, LLVM prefers 256-bit vectors
    numba.config.CPU_NAME = llvm.get_host_cpu_name()
    numba.config.CPU_FEATURES = llvm.get_host_cpu_features().flatten() + ",-prefer-256-bit"


HOW = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "nsz", "contract"}}
"""Sums may be reordered to vectorise, identically on every run; NaN and infinity are honoured."""


class _Part(Compiler):  # type: ignore[misc]
    """Does not optimise a part by itself: the function that it becomes a part of is optimised."""

    def compile_extra(self, function: Any) -> Any:
        level = numba.config.OPT  # nothing else is compiled meanwhile: Numba holds a lock
        numba.config.OPT = type(level)(0)
        try:
            return super().compile_extra(function)
        finally:
            numba.config.OPT = level


def part(function: Function) -> Function:
    """Compile a function into compiled ones that call it: code of its own would not be cached."""
    return numba.njit(function, pipeline_class=_Part, **HOW)  # type: ignore[no-any-return]


def compiled(function: Function) -> Function:
    """Compile a function on its first call with each set of argument types; it releases the GIL."""
    try:
        dispatcher = numba.njit(function, cache=True, **HOW)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return numba.njit(function, **HOW)  # type: ignore[no-any-return]
    file = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if file is not None:
        file._source_stamp = file._source_stamp, _sources()
        _discard_unreadable(file)
    return dispatcher  # type: ignore[no-any-return]


@cache
def _sources() -> str:
    """Hash the files of this package: Numba looks only at that of the function itself."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


def _discard_unreadable(file: Any) -> None:
    """Empty a function's cache if it is damaged, or of a version with other types.

    Numba notices other sources and versions, but fails on what it cannot unpickle.
    """
    try:
        for name in file._load_index().values():
            file._load_data(name)
    except FileNotFoundError:  # Numba compiles what is missing
        return
    except Exception:  # whatever unpickling raises
        file.flush()


def inline(function: Function) -> Function:
    """Inline a function into the compiled functions that call it."""
    return numba.njit(function, inline="always")  # type: ignore[no-any-return]
