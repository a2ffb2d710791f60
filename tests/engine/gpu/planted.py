"""The child that tries ways, with a faulty one among them; run by test_examination.py."""

from __future__ import annotations

import os
import signal
import sys
import time

import cupy

from convae.engine.gpu import examination
from convae.engine.gpu.ways import Tiles
from convae.engine.program import Problem

KERNEL = 'extern "C" __global__ void wild(float* x) { *(float*)(16 + 0 * (size_t)x) = 1; }'


class Faulty(Tiles):
    """Does what the environment says instead of a c."""

    name = "faulty"

    def __init__(self) -> None:
        super().__init__()
        self.name = "faulty"

    def build(self, problem: Problem, arrays: dict):
        fault = os.environ["PLANTED"]
        if fault == "raise":
            raise RuntimeError("no such plan\nand more")
        right = super().build(problem, arrays)

        def run() -> None:
            right()
            if fault in ("die", "kill"):
                os.kill(os.getpid(), signal.SIGABRT if fault == "die" else signal.SIGKILL)
            if fault == "hang":
                time.sleep(3600)
            if fault == "nan":
                arrays["Z"][...] = float("nan")
            if fault == "memory":
                raise cupy.cuda.memory.OutOfMemoryError(1, 2, 0)
            if fault == "wild":
                wild = cupy.RawKernel(KERNEL, "wild")
                wild((1,), (1,), (arrays["Z"],))

        return run


if __name__ == "__main__":
    examination.ways = lambda: [Faulty(), Tiles()]
    examination.SECONDS = int(os.environ.get("PLANTED_SECONDS", examination.SECONDS))
    sys.exit(examination.try_all(sys.argv[1], sys.stdout))
