"""NumPy in CuPy's place, whose RawModule compiles CUDA kernels for the CPU and runs them there."""

from __future__ import annotations

import ctypes
import importlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from convae import engine

HEADER = (Path(__file__).parent / "emulator.h").read_text()
KERNEL = re.compile(r'extern "C" __global__ void (\w+)\(([^)]*)\)')
C_TYPES = {"int32": ctypes.c_int, "int64": ctypes.c_longlong, "float32": ctypes.c_float}


class RawModule:
    """Kernels of a source file, each with a function that launches it."""

    def __init__(self, code: str, options: tuple[str, ...] = ()) -> None:
        launches = ""
        for name, parameters in KERNEL.findall(code):
            passed = ", ".join(parameter.split()[-1] for parameter in parameters.split(","))
            launches += (
                f'extern "C" void launch_{name}(int blocks, int block_x, int block_y, '
                f"{parameters})\n"
                "{ launch(Index{blocks, 1, 1}, Index{block_x, block_y, 1}, "
                f"{name}, {passed}); }}\n"
            )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "kernels.cpp")
            path.write_text(f"{HEADER}\n{code}\n{launches}")
            library = path.with_suffix(".so")
            flags = ["-std=c++20", "-O1", "-shared", "-fPIC", "-pthread", "-w"]
            subprocess.run(["g++", *flags, str(path), "-o", str(library)], check=True)
            self.library = ctypes.CDLL(str(library))

    def get_function(self, name: str) -> Callable[..., None]:
        function = self.library[f"launch_{name}"]

        def launch(grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple) -> None:
            x, y = (*block, 1)[:2]
            function(int(grid[0]), int(x), int(y), *map(_as_argument, arguments))

        return launch


def _as_argument(value: object) -> object:
    """What a kernel is given: an array that lies in order, or a number of a definite type."""
    if isinstance(value, np.ndarray):
        assert value.flags.c_contiguous
        return ctypes.c_void_p(value.ctypes.data)
    return C_TYPES[np.dtype(type(value)).name](value.item())


class Stream:
    """Stands in for a stream: everything is done at once."""

    def __init__(self, non_blocking: bool = False) -> None:
        self.recording = False

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def synchronize(self) -> None:
        assert not self.recording

    def wait_event(self, event: object) -> None:
        pass

    def record(self) -> object:
        return object()

    def begin_capture(self) -> None:
        self.recording = True

    def end_capture(self) -> None:
        self.recording = False


def _runtime() -> SimpleNamespace:
    return SimpleNamespace(
        Stream=Stream,
        MemoryPool=lambda: SimpleNamespace(malloc=None),
        Device=lambda: Stream(),
        using_allocator=lambda malloc: Stream(),
        get_current_stream=Stream,
    )


def cupy() -> ModuleType:
    """Make the module that stands in for CuPy."""
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler")
    module = ModuleType("cupy")
    module.__dict__.update(vars(np), RawModule=RawModule, cuda=_runtime())
    return module


def backend(monkeypatch: pytest.MonkeyPatch, library: ModuleType) -> ModuleType:
    """Import `convae.engine.gpu.backend`, and `cuda` with it, on a library in CuPy's place."""
    names = ("gpu", "cuda")
    monkeypatch.setitem(sys.modules, "cupy", library)
    for name in names:
        monkeypatch.delitem(sys.modules, f"convae.engine.{name}", raising=False)
        monkeypatch.delattr(engine, name, raising=False)
    gpu = importlib.import_module("convae.engine.gpu.backend")
    for name in names:  # so that they are gone, or what they were, afterwards
        module = sys.modules.pop(f"convae.engine.{name}")
        monkeypatch.setitem(sys.modules, f"convae.engine.{name}", module)
        delattr(engine, name)
        monkeypatch.setattr(engine, name, module, raising=False)
    return gpu
