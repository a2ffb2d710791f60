"""Tables of what is computed by us and beside us by PyTorch, in its fastest mode."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np
from tqdm import tqdm

from benchmarks.measure import gemm_peak, keep, table
from benchmarks.turns import BusyError, Make, Times, check_idle, take_turns

INFORMATION = ("bfloat16",)
"""Contestants that do not do the same: a column, but no comparison."""

TOLERANCE = 1e-4
"""The largest difference of what contestants return, relative to the largest of it."""


class Case(Protocol):
    """What is measured in a line of a table."""

    @property
    def name(self) -> str:
        """What the table calls it."""

    @property
    def source(self) -> str:
        """Where people find it."""


C = TypeVar("C", bound=Case)


def chosen(cases: Sequence[C], words: Sequence[str]) -> list[C]:
    """Find the cases whose names contain one of the words; all without any."""
    found = [c for c in cases if not words or any(word in c.name for word in words)]
    if not found:
        names = "\n".join(c.name for c in cases)
        sys.exit(f"error: {' '.join(words)}: in none of the names, which are\n{names}")
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
    cases: Sequence[C],
    first: C,
    makers: Callable[[C], Mapping[str, Make]],
    work: Callable[[C], int],
    words: Sequence[str],
) -> None:
    """Measure cases, whose work is in multiply-accumulates, and write a table.

    That of a busy machine is not written, nor one of some cases only, those that `words` choose.
    Every process has computed the `first`, a tiny case, before: memory is not that of libraries.
    """
    measured, rows = chosen(cases, words), []
    ratios: list[float] = []
    try:
        check_idle()
        peak = gemm_peak()
        for case in tqdm(measured, desc="benchmark", unit=" lines", disable=None):
            times = take_turns(makers(case), first, case)
            check(case.name, times)
            ratios.append(_ratio(times))
            rows.append(_row(case.name, times, work(case), peak, ratios[-1]))
            print(" | ".join(rows[-1]), flush=True)
        refusal = ""
    except BusyError as error:
        refusal = str(error)
    header = ["what", "convae, ms", "PyTorch, ms", "PyTorch / convae", "smallest", "GFLOP/s"]
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
    sources = "\n".join(f"- {case.name}: {case.source}" for case in measured)
    text = f"{note}\n\n{table(header, rows)}\n\nWhere they are from:\n\n{sources}"
    if words:
        print(text)
    else:
        keep(result, command, text)


def _rivals(times: Mapping[str, Times]) -> dict[str, Times]:
    return {who: t for who, t in times.items() if who not in ("convae", *INFORMATION)}


def _ratio(times: Mapping[str, Times]) -> float:
    """How many times faster than the fastest rival, by the medians."""
    return min(rival.median for rival in _rivals(times).values()) / times["convae"].median


def _row(name: str, times: Mapping[str, Times], work: int, peak: float, ratio: float) -> list[str]:
    """Write a line of the table."""
    ours = times["convae"]
    least = min(rival.least for rival in _rivals(times).values()) / ours.least
    rate = 2 * work / ours.median
    others = {who: found for who, found in times.items() if who != "convae"}
    return [
        name,
        f"{1e3 * ours.median:.2f}",
        ", ".join(f"{who} {1e3 * found.median:.2f}" for who, found in others.items()),
        f"{ratio:.2f}",
        f"{least:.2f}",
        f"{rate / 1e9:.0f}",
        f"{rate / peak:.0%}",
        f"{ours.megabytes:.0f}",
        f"{min(found.megabytes for found in _rivals(times).values()):.0f}",
    ]
