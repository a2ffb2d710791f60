"""c, h and g, one call at a time, against PyTorch: python -m benchmarks.operations [WORD ...].

PyTorch has no kernels that differ by position; there it is what its users write, unfold and einsum.
Arguments choose lines by parts of their names; then nothing is written.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial

from benchmarks.comparison import compare
from benchmarks.problems import (
    PROBLEMS,
    TINY,
    Problem,
    our_operation,
    their_local_operation,
    their_operation,
)
from benchmarks.turns import Make


def contestants(problem: Problem) -> Mapping[str, Make]:
    """Return who computes a problem."""
    if problem.tile is not None:
        return {"convae": our_operation, "unfold": their_local_operation}
    found = {"convae": our_operation, "eager": their_operation}
    if len(problem.size) > 1:  # PyTorch has no other order for one axis
        found["channels_last"] = partial(their_operation, channels_last=True)
    return found


def work(problem: Problem) -> int:
    """Count the multiply-accumulates."""
    return problem.geometry.macs(problem.channels, problem.filters) * problem.examples


if __name__ == "__main__":
    command = "python -m benchmarks.operations"
    compare("operations_cpu", command, PROBLEMS, TINY, contestants, work, sys.argv[1:])
