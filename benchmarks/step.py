"""A training step against PyTorch's, stack by stack: python -m benchmarks.step [NAME ...].

Both train the same tied autoencoder with Adam from the same initial values, and their losses must
agree. Arguments choose stacks by parts of their names; then nothing is written. With device=gpu,
`benchmarks.step_gpu` runs instead.
"""

from __future__ import annotations

import sys

from benchmarks.comparison import compare
from benchmarks.contestants import STEPS
from benchmarks.workloads import TINY, WORKLOADS, Workload
from convae.models.backpropagation import training_work


def work(workload: Workload) -> int:
    """Count the multiply-accumulates of a step."""
    return training_work(workload.build().layers) * workload.batch


def main(words: list[str]) -> None:
    """Measure the stacks."""
    command, stacks = "python -m benchmarks.step", list(WORKLOADS.values())
    compare("step_cpu", command, stacks, TINY, lambda _: STEPS, work, words)


if __name__ == "__main__":
    if "device=gpu" in sys.argv[1:]:
        from benchmarks import step_gpu

        step_gpu.main()
    else:
        main(sys.argv[1:])
