"""Side-by-side timing of implementations, and a description of the machine."""

from __future__ import annotations

import os
import platform
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch

from convae.engine.cpu.threads import cores

RESULTS = Path(__file__).parent / "results"


def ratio(slow: list[float], fast: list[float]) -> tuple[float, float, float]:
    """Return the median and the two quartiles of the round-by-round ratios."""
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    low, median, high = np.percentile(ratios, [25, 50, 75])
    return float(median), float(low), float(high)


def gemm_peak(seconds: float = 1.0) -> float:
    """Measure the fastest large matrix product here, NumPy's or PyTorch's, in FLOP/s."""
    side = 2048
    a = np.random.default_rng(0).random((side, side), dtype="float32")
    t = torch.tensor(a)
    best = 0.0
    for product in (lambda: a @ a, lambda: t @ t):
        product()
        end = time.perf_counter() + seconds / 2
        while time.perf_counter() < end:
            start = time.perf_counter()
            product()
            best = max(best, 2 * side**3 / (time.perf_counter() - start))
    return best


def machine() -> str:
    """Describe the processor, its load over the last minute, and the versions."""
    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = [ln.partition(":") for ln in Path("/proc/cpuinfo").read_text().splitlines()]
        known = {name.strip(): value.strip() for name, _, value in lines}
        # a name may hide its generation
        parts = [f"{name} {known[name]}" for name in ("cpu family", "model") if name in known]
        model = ", ".join([known.get("model name", model), *parts])
    return (
        f"{model}, {cores()} cores, load {os.getloadavg()[0]:.1f}; "
        f"Python {platform.python_version()}, NumPy {np.__version__}, PyTorch {torch.__version__}"
    )


def table(header: list[str], rows: list[list[str]]) -> str:
    """Format a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def keep(name: str, command: str, text: str) -> None:
    """Print a result and save it in benchmarks/results with command, date and machine."""
    content = f"`{command}`, {date.today()}, {machine()}\n\n{text}\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(content)
    print(content)
