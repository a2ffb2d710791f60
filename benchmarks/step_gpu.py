"""A training step against PyTorch's on a GPU: python -m benchmarks.step device=gpu [compile=no].

With compile=no PyTorch's step is recorded as a CUDA graph, but not compiled, which takes minutes.
Each precision is measured in a separate process. Contestants are timed in turns by CUDA's events.
The floor is the time that a step would take if every operation were limited only by this GPU's
fastest copy or its fastest matrix product in that precision, both measured in the same process. The
table is kept after every row.
"""

from __future__ import annotations

import json
import subprocess
import sys

import torch
from tqdm import tqdm

from benchmarks import card
from benchmarks.measure import keep, ratio, table
from convae import engine

HEADER = ["workload", "precision", "convae, ms", "PyTorch, ms", "PyTorch's best / convae"]
HEADER += ["floor, ms", "convae / floor"]


def row(name: str, precision: str, rate: float, bandwidth: float, is_compiled: bool) -> list[str]:
    """Measure a workload in one precision; the losses of three steps have to agree."""
    workload = card.workloads()[name]
    model, ours = card.our_step(workload, precision, "fast")
    theirs = dict(card.their_steps(workload, precision, is_compiled))
    expected = [float(ours()) for _ in range(3 + card.WARM_UP)]
    for who, step in theirs.items():
        found = [float(step()) for _ in range(3)]
        done = card.WARM_UP if who == "whole step in a graph" else 0
        right = expected[done : done + 3]
        difference = max(abs(a - b) for a, b in zip(found, right, strict=True)) / expected[0]
        assert difference < card.TOLERANCES[precision], f"{who}: losses differ by {difference}"
    times = card.alternated({"fast": ours, **theirs})
    medians = {who: card.middle(values) for who, values in times.items()}
    best = min(theirs, key=medians.__getitem__)
    median, low, high = ratio(times[best], times["fast"])
    itemsize = 2 if precision == "bfloat16" else 4
    least = card.floor(model, workload[0], rate, bandwidth, itemsize)
    named = (
        ", ".join(f"{w} {1e3 * medians[w]:.3f}" for w in names) for names in (["fast"], theirs)
    )
    return [
        name,
        precision,
        *named,
        f"{median:.2f} ({low:.2f} to {high:.2f})",
        f"{1e3 * least:.3f}",
        f"{medians['fast'] / least:.1f}",
    ]


def measure(precision: str, is_compiled: bool) -> None:
    """Measure every workload in one precision, and print each row as a line of JSON."""
    peaks = dict(card.ceilings())
    kind = "float16" if precision == "bfloat16" else precision
    limits = peaks[f"product in {kind}, FLOP/s"], peaks["copy, bytes/s"]
    for name in tqdm(card.workloads(), desc=precision, disable=None):
        try:
            found = row(name, precision, *limits, is_compiled)
        except Exception as error:  # the other rows count all the same
            message = f"{type(error).__name__}: {error}".splitlines()[0]
            found = [name, precision, f"failed: {message}", "", "", "", ""]
        print(json.dumps(found), flush=True)


def main() -> None:
    """Measure every precision, each in a separate process."""
    missing = engine.missing_gpu() or ("" if torch.cuda.is_available() else "PyTorch finds no GPU")
    if missing:
        sys.exit(f"error: device: 'gpu' was asked for, but {missing}")
    note = (
        f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, CuPy "
        f"{engine.backend_for('gpu').xp.__version__}; Adam; a ratio over 1 means that convae is "
        f"faster (median and quartiles of {card.ROUNDS} rounds)."
    )
    rows: list[list[str]] = []
    others = [word for word in sys.argv[1:] if word == "compile=no"]
    if others:
        note += " PyTorch's step is recorded as a graph, and not compiled."
    for precision in card.PRECISIONS:
        child = [sys.executable, "-m", "benchmarks.step_gpu", precision, *others]
        with subprocess.Popen(child, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                rows.append(json.loads(line))
                result = f"{note}\n\n{table(HEADER, rows)}"
                command = " ".join(["python -m benchmarks.step device=gpu", *others])
                keep("step_gpu", command, result)


if __name__ == "__main__":
    measure(sys.argv[1], "compile=no" not in sys.argv)
