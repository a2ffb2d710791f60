"""The table of all stacks, ours beside PyTorch's fastest mode."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from tqdm import tqdm

import convae
from benchmarks.measure import gemm_peak, keep, table
from benchmarks.turns import BusyError, Make, Times, check_idle, take_turns
from benchmarks.workloads import WORKLOADS, Workload

TINY = Workload(128, (1, 8, 8), "4@3/2")

INFORMATION = ("bfloat16",)
"""Contestants that do not do the same: a column, but no comparison."""

TOLERANCE = 1e-4
"""The largest difference of what contestants return, relative to the largest of it."""


def chosen(words: Sequence[str]) -> list[Workload]:
    """Find the workloads whose names contain all of one of the arguments; all without any."""
    found = [w for w in WORKLOADS.values() if not words or any(word in w.name for word in words)]
    if not found:
        sys.exit(f"error: {' '.join(words)}: in no workload; they are\n" + "\n".join(WORKLOADS))
    return found


def check(name: str, times: Mapping[str, Times]) -> None:
    """Refuse to compare contestants that compute different things."""
    values = {who: np.array(found.values) for who, found in times.items()}
    largest = np.abs(values["convae"]).max()
    for who, found in values.items():
        difference = np.abs(found - values["convae"]).max() / largest
        if who not in INFORMATION and not difference <= TOLERANCE:
            sys.exit(f"error: {name}: {who} and convae differ by {difference:.1e}")


def compare(
    result: str,
    command: str,
    makers: Mapping[str, Make],
    work: Callable[[convae.Autoencoder], int],
    words: Sequence[str],
) -> None:
    """Measure workloads and write a table; refuses to write that of a busy machine."""
    workloads, rows = chosen(words), []
    ratios: list[float] = []
    try:
        check_idle()
        peak = gemm_peak()
        for workload in tqdm(workloads, desc="benchmark", unit=" stacks", disable=None):
            times = take_turns(makers, TINY, workload)
            check(workload.name, times)
            ratios.append(_ratio(times))
            rows.append(_row(workload, times, work, peak, ratios[-1]))
            print(" | ".join(rows[-1]), flush=True)
        refusal = ""
    except BusyError as error:
        refusal = str(error)
    header = ["stack", "convae, ms", "PyTorch, ms", "PyTorch / convae", "smallest", "GFLOP/s"]
    header += ["of GEMM peak", "MB: convae", "MB: PyTorch"]
    if refusal or not ratios:
        print(table(header, rows))
        sys.exit(f"error: {refusal}; nothing was written. Try again when nothing else runs")
    mean = statistics.geometric_mean(ratios)
    note = (
        "float32. Every contestant is a process of its own, and they take turns; the median of "
        "its turns, and the ratio to PyTorch's fastest mode, also of the smallest times. MB is "
        "what the work adds, at its peak, to a process that has done a tiny piece of it. Geometric "
        f"mean of the ratios: {mean:.2f}; the lowest: {min(ratios):.2f}. GEMM peak here: "
        f"{peak / 1e9:.0f} GFLOP/s."
    )
    sources = "\n".join(f"- {w.name}: {w.source}" for w in workloads)
    text = f"{note}\n\n{table(header, rows)}\n\nWhere the stacks are from:\n\n{sources}"
    if words:
        print(text)
    else:
        keep(result, command, text)


def _rivals(times: Mapping[str, Times]) -> dict[str, Times]:
    return {who: t for who, t in times.items() if who not in ("convae", *INFORMATION)}


def _ratio(times: Mapping[str, Times]) -> float:
    """How many times faster than the fastest rival, by the medians."""
    return min(rival.median for rival in _rivals(times).values()) / times["convae"].median


def _row(
    workload: Workload,
    times: Mapping[str, Times],
    work: Callable[[convae.Autoencoder], int],
    peak: float,
    ratio: float,
) -> list[str]:
    """Write a line of the table."""
    ours = times["convae"]
    least = min(rival.least for rival in _rivals(times).values()) / ours.least
    model = convae.Autoencoder(workload.shape, workload.build_layers())
    rate = 2 * work(model) * workload.batch / ours.median
    others = {who: found for who, found in times.items() if who != "convae"}
    return [
        workload.name,
        f"{1e3 * ours.median:.2f}",
        ", ".join(f"{who} {1e3 * found.median:.2f}" for who, found in others.items()),
        f"{ratio:.2f}",
        f"{least:.2f}",
        f"{rate / 1e9:.0f}",
        f"{rate / peak:.0%}",
        f"{ours.megabytes:.0f}",
        f"{min(found.megabytes for found in _rivals(times).values()):.0f}",
    ]
