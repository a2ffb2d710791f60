"""Training by several processes: python -m benchmarks.scaling_out.

Steps of 1, 2 and 4 processes of one machine, connected by gloo, and what a model of communication
predicts for clusters of 8 to 1,024 processes. Saves a table in benchmarks/results and a plot in
docs/images.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np

import convae
from benchmarks.measure import keep, table
from benchmarks.turns import check_idle
from benchmarks.workloads import Workload

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "scaling_out.png"

NETWORKS = {
    "small": Workload(64, (1, 28, 28), "16@3/2 32@3/2"),
    "medium": Workload(64, (3, 32, 32), "32@5/2 64@3/2 128@3/2"),
    "large": Workload(64, (3, 64, 64), "64@5/2 128@5/2 256@5/2"),
}
"""Stacks whose gradients have different sizes; the batch is that of one process."""

PROCESSES = (1, 2, 4)
MESSAGES = tuple(2**n for n in range(10, 25, 2))
"""Numbers of float32 that are added up, to find latency and bandwidth."""

WARMUP, ROUNDS, STEPS = 3, 7, 10
PREDICTED = tuple(2**n for n in range(3, 11))


class Link(NamedTuple):
    """What connects two processes: seconds until a message arrives, and bytes a second."""

    name: str
    latency: float
    bandwidth: float


CLUSTERS = (
    Link("10 Gbit/s Ethernet", 30e-6, 10e9 / 8 * 0.9),
    Link("200 Gbit/s InfiniBand", 5e-6, 200e9 / 8 * 0.9),
)
"""Round figures of such networks, of whose nominal bandwidth a tenth is lost."""


def ring(size: int, processes: int, link: Link) -> float:
    """Predict the seconds of a ring's all-reduce of so many bytes (Patarasuk and Yuan 2009).

    Each process sends and receives ``2 (p - 1)`` pieces of ``size / p`` bytes.
    """
    pieces = 2 * (processes - 1)
    return pieces * (link.latency + size / processes / link.bandwidth)


def measure() -> dict[str, Any]:
    """Time steps, and sums alone, in the processes that there are."""
    group = convae.join()
    convae.engine.set_num_threads(1)
    found: dict[str, Any] = {}
    for name, work in NETWORKS.items():
        model = work.build()
        step = convae.TrainingStep(model, convae.AdamW(1e-3), group=group)
        x = np.random.default_rng(group.rank).random((work.batch, *work.shape), dtype="float32")
        share = group.share(work.batch * group.size)
        found[name] = {
            "step": median(lambda step=step, x=x, share=share: step(x, None, share), STEPS),
            "bytes": 4 * (model.flat_gradients.size + 2),
            "combine": median(
                lambda model=model: group.combine(model.flat_gradients, np.float64(1)), STEPS
            ),
        }
    vectors = {count: np.ones(count, "float32") for count in MESSAGES}
    found["sums"] = {
        count: median(lambda vector=vector: group.mean(vector), 10)
        for count, vector in vectors.items()
    }
    return found if group.is_first else {}


def median(call: Any, times: int) -> float:
    """Return the seconds of a call: the median of rounds of several."""
    for _ in range(WARMUP):
        call()
    rounds = []
    for _ in range(ROUNDS):
        since = time.perf_counter()
        for _ in range(times):
            call()
        rounds.append((time.perf_counter() - since) / times)
    return float(np.median(rounds))


def run(processes: int, folder: Path) -> dict[str, Any]:
    """Measure in so many processes."""
    out = folder / f"{processes}.json"
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    words = ["-m", "benchmarks.scaling_out", str(out)]
    started = [*launcher, *words] if processes > 1 else words
    subprocess.run(
        [sys.executable, *started], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    return json.loads(out.read_text())


def fitted(sums: dict[str, float], processes: int) -> Link:
    """Fit a link to the times of sums of several sizes, by relative errors."""
    sizes, seconds = (np.array(v, float) for v in (list(sums), list(sums.values())))
    terms = np.stack([np.ones_like(sizes), 4 * sizes / processes], 1) * 2 * (processes - 1)
    (latency, inverse), *_ = np.linalg.lstsq(terms / seconds[:, None], np.ones_like(seconds))
    return Link("gloo, one machine", max(latency, 0), 1 / inverse)


def main() -> None:
    """Measure, predict, and save table and plot."""
    check_idle()
    with tempfile.TemporaryDirectory() as folder:
        found = {processes: run(processes, Path(folder)) for processes in PROCESSES}
    link = fitted(found[2]["sums"], 2)
    cores = len(os.sched_getaffinity(0))
    rows = []
    for name, work in NETWORKS.items():
        alone = found[1][name]["step"]
        for processes in PROCESSES:
            its = found[processes][name]
            slowed = max(1, processes / cores)  # processes that share a core
            predicted = alone * slowed + ring(its["bytes"], processes, link)
            rows.append(
                [
                    f"{name}: {work.name}" if processes == 1 else "",
                    str(processes),
                    f"{1e3 * its['step']:.1f}",
                    f"{1e3 * predicted:.1f}",
                    f"{its['bytes'] / 1e6:.2f}" if processes > 1 else "",
                    f"{its['combine'] / its['step']:.0%}" if processes > 1 else "",
                    f"{alone * slowed / its['step']:.0%}",
                ]
            )
    header = [
        "network",
        "processes",
        "ms a step",
        "predicted",
        "MB added up",
        "of the step",
        "efficiency",
    ]
    header[0] += ", batch of one process"
    predictions = [
        [link.name, name, *(f"{efficiency(found[1][name], p, link):.0%}" for p in PREDICTED)]
        for link in CLUSTERS
        for name in NETWORKS
    ]
    text = (
        f"One thread for each process, {cores} cores; efficiency is the time of one process over "
        "that of several, which have as many times the images, corrected for shared cores. "
        f"Fitted to sums of {4 * MESSAGES[0] / 1e3:.0f} kB to {4 * MESSAGES[-1] / 1e6:.0f} MB by 2 "
        f"processes: {1e6 * link.latency:.0f} us of latency, {link.bandwidth / 1e9:.2f} GB/s.\n\n"
        f"{table(header, rows)}\n\nPredicted efficiency, by the same formula:\n\n"
        f"{table(['network of the cluster', 'model', *map(str, PREDICTED)], predictions)}"
    )
    keep("scaling_out", "python -m benchmarks.scaling_out", text)
    plot(found)


def efficiency(alone: dict[str, float], processes: int, link: Link) -> float:
    """Predict the part of a step that is not communication."""
    return alone["step"] / (alone["step"] + ring(int(alone["bytes"]), processes, link))


def plot(found: dict[int, dict[str, Any]]) -> None:
    """Draw predicted images a second over the number of processes."""
    figure, panels = plt.subplots(
        1, len(CLUSTERS), figsize=(9, 3.6), layout="constrained", sharey=True
    )
    for link, panel in zip(CLUSTERS, panels, strict=True):
        for name, work in NETWORKS.items():
            speeds = [
                p * work.batch / found[1][name]["step"] * efficiency(found[1][name], p, link)
                for p in PREDICTED
            ]
            (line,) = panel.loglog(PREDICTED, speeds, "o-", label=name)
            ideal = [p * work.batch / found[1][name]["step"] for p in PREDICTED]
            panel.loglog(PREDICTED, ideal, ":", color=line.get_color())
        panel.set(title=link.name, xlabel="processes", xticks=PREDICTED, xticklabels=PREDICTED)
        panel.minorticks_off()
    panels[0].set(ylabel="images a second")
    panels[0].legend(title="predicted; dotted: ideal")
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        if measured := measure():
            Path(sys.argv[1]).write_text(json.dumps(measured))
    else:
        main()
