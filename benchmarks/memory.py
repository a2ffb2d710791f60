"""Peak memory of a few training steps, in a separate process: python -m benchmarks.memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

import convae
from benchmarks.workloads import WORKLOADS, Workload, build

TINY = Workload(128, (1, 8, 8), "4@3/2")


def peak() -> float:
    """Return the peak memory of this process so far, in MB."""
    # Linux counts VmHWM per program; getrusage would include the parent process.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def step(who: str, workload: Workload) -> Callable[[], object]:
    """Create a training step of convae or of one of PyTorch's modes."""
    model, x = build(workload)
    if who == "convae":
        trainer = convae.TrainingStep(model, convae.Adam(1e-3))
        return lambda: trainer(x)
    from benchmarks.peers import training_steps  # deferred: convae is measured without torch

    return training_steps(model, np.ascontiguousarray(x))[who]


def measure(who: str, name: str) -> tuple[float, float]:
    """Return the peak after five steps, and what they add to that of one tiny step."""
    step(who, TINY)()
    measured = step(who, WORKLOADS[name])
    before = peak()
    for _ in range(5):
        measured()
    return peak(), peak() - before


def of(who: str, name: str) -> tuple[float, float]:
    """Measure in a new process."""
    command = [sys.executable, "-m", "benchmarks.memory", who, name]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    total, added = json.loads(output)
    return total, added


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:])))
