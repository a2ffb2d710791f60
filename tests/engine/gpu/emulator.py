"""NumPy in CuPy's place: RawModule compiles CUDA kernels for the processor and runs them there."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from convae.engine.gpu.graph import DoubleBufferedGraph

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
            function(int(grid[0]), int(x), int(y), *map(as_argument, arguments))

        return launch


def as_argument(value: object) -> object:
    """What a kernel is given: an array that lies in order, or a number of a definite type."""
    if isinstance(value, np.ndarray):
        assert value.flags.c_contiguous
        return ctypes.c_void_p(value.ctypes.data)
    return C_TYPES[np.dtype(type(value)).name](value.item())


class Stream:
    """A stream that does everything at once, except during a capture."""

    capture: list[Callable[[], None]] | None = None  # of any stream: there is one at a time

    def __init__(self, non_blocking: bool = False) -> None:
        pass

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def synchronize(self) -> None:
        assert Stream.capture is None

    def wait_event(self, event: object) -> None:
        pass

    def record(self) -> object:
        return object()

    def begin_capture(self) -> None:
        Stream.capture = []

    def end_capture(self) -> SimpleNamespace:
        captured, Stream.capture = Stream.capture, None
        return SimpleNamespace(launch=lambda stream: [work() for work in captured])


class EmulatedGraph(DoubleBufferedGraph):
    """A graph whose computation is captured as a call, since NumPy's operations cannot be."""

    def _compute(self, turn: int) -> None:
        work = partial(super()._compute, turn)
        if Stream.capture is None:
            work()
        else:
            Stream.capture.append(work)


def cupy(patch: pytest.MonkeyPatch) -> ModuleType:
    """Give NumPy itself what CuPy has beyond it, since models ask arrays for their library."""
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler")
    runtime = SimpleNamespace(
        Stream=Stream,
        MemoryPool=lambda: SimpleNamespace(malloc=None),
        Device=Stream,
        using_allocator=lambda malloc: Stream(),
        get_current_stream=Stream,
    )
    patch.setattr(np, "RawModule", RawModule, raising=False)
    patch.setattr(np, "cuda", runtime, raising=False)
    return np
