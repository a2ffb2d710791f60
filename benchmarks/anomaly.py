"""Anomaly detection with each class as the normal one: python -m benchmarks.anomaly --root data.

Trains ``experiment=anomaly`` for every class of MNIST and Fashion-MNIST and saves a table of the
areas under the ROC curve, with figures from the literature, in benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import keep, table

REPOSITORY = Path(__file__).parents[1]
DATASETS = {"mnist": "MNIST", "fashionmnist": "Fashion-MNIST"}
CLASSES = range(10)

RUFF_2018 = (97.6, 98.3, 85.4, 86.7, 86.5, 78.2, 94.6, 92.3, 86.5, 90.4)
"""MNIST, reconstruction error of a deep convolutional autoencoder (DCAE): Ruff et al., Deep
One-Class Classification, ICML 2018, table 1."""

RUFF_2020 = {"mnist": 92.9, "fashionmnist": 90.2}
"""Means over the ten classes, convolutional autoencoder (CAE): Ruff et al., Deep Semi-Supervised
Anomaly Detection, ICLR 2020, the table's rows without labelled anomalies."""


def train(dataset: str, root: str) -> list[dict[str, float]]:
    """Train a model per class and return the summaries in class order."""
    normal = ",".join(f"[{number}]" for number in CLASSES)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train.py", "-m", "experiment=anomaly", f"dataset={dataset}"]
        command += [f"dataset.root={Path(root).resolve()}", f"dataset.normal={normal}"]
        command += ["trainer.embeddings=0", f"hydra.sweep.dir={folder}"]
        subprocess.run(command, cwd=REPOSITORY, check=True)
        files = [Path(folder) / str(number) / "summary.json" for number in CLASSES]
        return [json.loads(file.read_text()) for file in files]


def main() -> None:
    """Train all models and save the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default="data", help="folder of torchvision's datasets")
    root = parser.parse_args().root
    results = {dataset: train(dataset, root) for dataset in DATASETS}

    def percent(values: list[float]) -> str:
        return f"{100 * statistics.mean(values):.1f}"

    rows = [
        [
            str(number),
            percent([results["mnist"][number]["auroc"]]),
            f"{RUFF_2018[number]}",
            percent([results["fashionmnist"][number]["auroc"]]),
        ]
        for number in CLASSES
    ]
    mnist, fashion = ([run["auroc"] for run in results[dataset]] for dataset in DATASETS)
    rows.append(["mean", percent(mnist), f"{statistics.mean(RUFF_2018):.1f}", percent(fashion)])
    header = ["normal class", "MNIST", "MNIST, DCAE of Ruff et al. 2018", "Fashion-MNIST"]
    text = (
        "AUROC in per cent on all 10,000 test images, by reconstruction error, one run each. Means "
        "of the convolutional autoencoder in Ruff et al. 2020: MNIST "
        f"{RUFF_2020['mnist']}, Fashion-MNIST {RUFF_2020['fashionmnist']}.\n\n"
    )
    keep("anomaly", "python -m benchmarks.anomaly", text + table(header, rows))


if __name__ == "__main__":
    main()
