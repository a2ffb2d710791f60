"""`reconstruct` against PyTorch's inference, stack by stack: python -m benchmarks.inference."""

from __future__ import annotations

import sys

from benchmarks.comparison import compare
from benchmarks.contestants import RECONSTRUCTIONS
from benchmarks.workloads import TINY, WORKLOADS, Workload


def work(workload: Workload) -> int:
    """Count the multiply-accumulates of a reconstruction."""
    layers = workload.build().layers
    macs = (layer.geometry.macs(layer.input_shape[0], layer.spec.filters) for layer in layers)
    return 2 * sum(macs) * workload.batch


if __name__ == "__main__":
    command, stacks = "python -m benchmarks.inference", list(WORKLOADS.values())
    everyone = RECONSTRUCTIONS
    compare("inference_cpu", command, stacks, TINY, lambda _: everyone, work, sys.argv[1:])
