"""Accuracy on MNIST against the number of labels: python -m benchmarks.labels --root data.

An autoencoder is trained on all training images without labels. Classifiers then learn from few or
many of them, from random kernels or from the autoencoder's, all layers or the last one only. Saves
a table in benchmarks/results and a figure in docs/images.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import keep, table
from convae.files import write_bytes
from convae.report.pictures import figure_png

REPOSITORY = Path(__file__).parents[1]

FEW, MANY = (100, 300, 1_000), (10_000, None)
"""Numbers of labels; None for all. Of few there are several runs, of other images each."""

SEEDS = 3

STARTS = {
    "from random kernels": [],
    "from the autoencoder": ["init={run}"],
    "its last layer alone": ["init={run}", "model.trained=last"],
}


def main() -> None:
    """Train everything, and save the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default="data", help="folder of torchvision's datasets")
    given = parser.parse_args()
    data = ["dataset=mnist", f"dataset.root={Path(given.root).resolve()}", "dataset.holdout=0.02"]
    data += ["trainer.embeddings=0", "trainer.drop_states=true"]
    with tempfile.TemporaryDirectory() as folder:
        autoencoder = f"{folder}/autoencoder"
        train([*data, f"hydra.run.dir={autoencoder}"])
        found = {
            name: {
                labels: [
                    accuracy([*data, *(word.format(run=autoencoder) for word in how)], labels, seed)
                    for seed in range(SEEDS if labels in FEW else 1)
                ]
                for labels in (*FEW, *MANY)
            }
            for name, how in STARTS.items()
        }
    counts = [f"{labels:,}" if labels else "58,800" for labels in (*FEW, *MANY)]
    rows = [[name, *map(percent, results.values())] for name, results in found.items()]
    text = (
        "Accuracy in per cent on the 10,000 test images; of few labels mean and deviation of "
        f"{SEEDS} runs, each of other images. 1,200 further labels choose the best epoch.\n\n"
    )
    command = " ".join(["python -m benchmarks.labels", *sys.argv[1:]])
    keep("labels", command, text + table(["labels", *counts], rows))
    picture = figure_png(lambda axes: draw(axes, found))
    write_bytes(REPOSITORY / "docs" / "images" / "labels.png", picture)


def train(words: list[str]) -> None:
    """Do a run."""
    subprocess.run([sys.executable, "train.py", *words], cwd=REPOSITORY, check=True)


def accuracy(words: list[str], labels: int | None, seed: int) -> float:
    """Train a classifier with so many labels: its accuracy on the test images."""
    with tempfile.TemporaryDirectory() as folder:
        limit = [] if labels is None else [f"dataset.limit={labels}"]
        run = f"hydra.run.dir={folder}/run"
        how = ["task=classify", "trainer.patience=15", f"seed={seed}"]
        train([*words, *how, *limit, run])
        summary = json.loads(Path(folder, "run", "summary.json").read_text())
    return float(summary["test_accuracy"])


def percent(values: list[float]) -> str:
    """Mean and deviation of several runs, in per cent."""
    mean = f"{100 * statistics.mean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def draw(axes: Any, found: dict[str, dict[int | None, list[float]]]) -> None:
    """Draw the error over the number of labels, both logarithmic."""
    for name, results in found.items():
        labels = [58_800 if count is None else count for count in results]
        errors = [100 * (1 - statistics.mean(values)) for values in results.values()]
        axes.plot(labels, errors, marker="o", label=name)
    axes.set(xscale="log", yscale="log", xlabel="labels", ylabel="test error (%)")
    axes.legend()


if __name__ == "__main__":
    main()
