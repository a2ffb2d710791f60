"""Plot of training step time against batch, side and filters: python -m benchmarks.scaling."""

from __future__ import annotations

import statistics
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

import convae
from benchmarks.measure import interleaved
from benchmarks.peers import training_steps
from benchmarks.workloads import Workload, build

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "step_time.png"
BATCH, SIDE, FILTERS = 128, 32, 32


def workload(batch: int = BATCH, side: int = SIDE, filters: int = FILTERS) -> Workload:
    """Return a workload of two layers on colour images."""
    return Workload(batch, (3, side, side), f"{filters}@5/2 {2 * filters}@3/2")


def milliseconds(work: Workload) -> dict[str, float]:
    """Time both libraries alternately, PyTorch with the faster of its memory formats."""
    model, x = build(work)
    peers = training_steps(model, np.ascontiguousarray(x))
    step = convae.TrainingStep(model, convae.Adam(1e-3))
    eager = {mode: peers[mode] for mode in ("eager", "channels_last")}
    times = interleaved({"convae": lambda: step(x), **eager}, rounds=7, seconds=0.1)
    medians = {who: 1e3 * statistics.median(rounds) for who, rounds in times.items()}
    return {"convae": medians.pop("convae"), "PyTorch": min(medians.values())}


def main() -> None:
    """Plot one panel per varied size."""
    sweeps = {"batch": [32, 64, 96, 128, 256], "side": [16, 24, 32, 48], "filters": [8, 16, 32, 64]}
    figure, panels = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for (name, values), panel in zip(tqdm(sweeps.items(), disable=None), panels, strict=True):
        times = [milliseconds(workload(**{name: value})) for value in values]
        for who in times[0]:
            panel.loglog(values, [t[who] for t in times], "o-", label=who)
        panel.set(xlabel=name, ylabel="ms a step", xticks=values, xticklabels=values)
        panel.minorticks_off()
    panels[0].legend()
    figure.suptitle(
        f"A training step on 3x{SIDE}x{SIDE} images, batch {BATCH}, "
        f"{FILTERS}@5/2 {2 * FILTERS}@3/2, one of these changed"
    )
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()
