"""Plot of training step time against batch, side and filters: python -m benchmarks.scaling."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
from tqdm import tqdm

from benchmarks.contestants import STEPS
from benchmarks.turns import check_idle, take_turns
from benchmarks.workloads import TINY, Workload

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "step_time.png"
BATCH, SIDE, FILTERS = 128, 32, 32


def workload(batch: int = BATCH, side: int = SIDE, filters: int = FILTERS) -> Workload:
    """Return a workload of two layers on colour images."""
    return Workload(batch, (3, side, side), f"{filters}@5/2 {2 * filters}@3/2")


def milliseconds(work: Workload) -> dict[str, float]:
    """Time both libraries in turns, PyTorch with the faster of its memory formats."""
    whos = ("convae", "eager", "channels_last")
    times = take_turns({who: STEPS[who] for who in whos}, TINY, work)
    medians = {who: 1e3 * found.median for who, found in times.items()}
    return {"convae": medians.pop("convae"), "PyTorch": min(medians.values())}


def main() -> None:
    """Plot one panel per varied size."""
    check_idle()
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
