"""Anomaly detection with each class as the normal one: python -m benchmarks.anomaly --root data.

Trains ``experiment=anomaly`` for every class of MNIST and Fashion-MNIST, and ``experiment=beats``,
several times each, and saves tables of the areas under the ROC curve, by class and by score, with
figures from the literature, in benchmarks/results.

With --cifar, a folder with a subfolder of pictures for each of CIFAR-10's classes, it does that for
these instead. The last 1,000 of each by file name, a fifth of the official training set, are held
out to test.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measure import keep, table
from convae.configuration import SCORES

REPOSITORY = Path(__file__).parents[1]
HELD_OUT = 1_000
"""Test images of each class of CIFAR-10."""

DIGITS = [str(number) for number in range(10)]
ARTICLES = [
    *("0 T-shirt", "1 trouser", "2 pullover", "3 dress", "4 coat"),
    *("5 sandal", "6 shirt", "7 sneaker", "8 bag", "9 boot"),
]

DCAE = {
    "MNIST": (97.6, 98.3, 85.4, 86.7, 86.5, 78.2, 94.6, 92.3, 86.5, 90.4),
    "CIFAR-10": (59.1, 57.4, 48.9, 58.4, 54.0, 62.2, 51.2, 58.6, 76.8, 67.3),
}
"""Reconstruction error of a deep convolutional autoencoder: Ruff et al., Deep One-Class
Classification, ICML 2018, table 1. Its images were normalised in contrast."""

CAE = {"MNIST": 92.9, "Fashion-MNIST": 90.2}
"""Means over the ten classes, convolutional autoencoder: Ruff et al., Deep Semi-Supervised Anomaly
Detection, ICLR 2020, the table's rows without labelled anomalies."""

Runs = list[dict[str, float]]


def train(seeds: int, normal: Sequence[str], *overrides: str) -> list[Runs]:
    """Train models for every normal class and seed: -> the summaries, by class and seed."""
    classes = ",".join(f"[{name}]" for name in normal)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train.py", "-m", *overrides, f"dataset.normal={classes}"]
        command += [f"seed={','.join(map(str, range(seeds)))}"]
        command += ["trainer.embeddings=0", "trainer.drop_states=true", f"hydra.sweep.dir={folder}"]
        subprocess.run(command, cwd=REPOSITORY, check=True)
        runs = [
            json.loads((Path(folder) / str(number) / "summary.json").read_text())
            for number in range(seeds * len(normal))
        ]
    return [runs[n * seeds : (n + 1) * seeds] for n in range(len(normal))]


@contextmanager
def divided(source: Path) -> Iterator[Path]:
    """Divide folders of classes into training and test images, by links."""
    with tempfile.TemporaryDirectory() as folder:
        for kind in sorted(path for path in source.iterdir() if path.is_dir()):
            files = sorted(path for path in kind.iterdir() if path.is_file())
            for part, some in (("train", files[:-HELD_OUT]), ("test", files[-HELD_OUT:])):
                place = Path(folder) / part / kind.name
                place.mkdir(parents=True)
                for file in some:
                    (place / file.name).symlink_to(file.resolve())
        yield Path(folder)


def percent(values: Sequence[float]) -> str:
    """Mean and deviation of several runs, in per cent."""
    mean = f"{100 * statistics.mean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def by_class(name: str, classes: Sequence[str], runs: list[Runs]) -> str:
    """Tabulate the areas of every class."""
    known = DCAE.get(name)
    rows = []
    for number, (label, of_class) in enumerate(zip(classes, runs, strict=True)):
        row = [label, percent([run["auroc"] for run in of_class])]
        rows.append([*row, *([f"{known[number]}"] if known else [])])
    seeds = range(len(runs[0]))
    means = [statistics.mean(of_class[seed]["auroc"] for of_class in runs) for seed in seeds]
    row = ["mean", percent(means)]
    rows.append([*row, *([f"{statistics.mean(known):.1f}"] if known else [])])
    header = ["normal class", name, *(["DCAE of Ruff et al. 2018"] if known else [])]
    said = f"\n\nMean of the CAE of Ruff et al. 2020: {CAE[name]}." if name in CAE else ""
    return f"### {name}\n\n{table(header, rows)}{said}\n\n"


def by_score(results: dict[str, list[Runs]]) -> str:
    """Tabulate the mean areas of every score."""
    rows = [
        [
            score,
            *(
                f"{100 * statistics.mean(run[f'auroc_{score}'] for of in runs for run in of):.1f}"
                for runs in results.values()
            ),
        ]
        for score in SCORES
    ]
    return f"### By score\n\nMeans over all classes and runs.\n\n{table(['score', *results], rows)}"


def main() -> None:
    """Train all models and save the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default="data", help="folder of torchvision's datasets")
    parser.add_argument("--cifar", type=Path, help="folder of CIFAR-10's pictures, by class")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each class")
    given = parser.parse_args()
    command = " ".join(["python -m benchmarks.anomaly", *sys.argv[1:]])
    introduction = (
        f"AUROC in per cent on all test images, by the default score, {given.seeds} runs each: "
        "mean and standard deviation. The DCAE saw images of normalised contrast, the CAE the same "
        "as these.\n\n"
    )
    if given.cifar is None:
        name, (text, results) = "anomaly", small(given.root, given.seeds)
    else:
        name, (text, results) = "anomaly_cifar", pictures(given.cifar, given.seeds)
    keep(name, command, introduction + text + by_score(results))


def small(root: str, seeds: int) -> tuple[str, dict[str, list[Runs]]]:
    """Train on MNIST, Fashion-MNIST and heartbeats."""
    folder = f"dataset.root={Path(root).resolve()}"
    results, text = {}, ""
    for name, option, classes in (
        ("MNIST", "mnist", DIGITS),
        ("Fashion-MNIST", "fashionmnist", ARTICLES),
    ):
        results[name] = train(seeds, DIGITS, "experiment=anomaly", f"dataset={option}", folder)
        text += by_class(name, classes, results[name])
    results["synthetic_beats"] = train(seeds, ["normal"], "experiment=beats")
    return text, results


def pictures(source: Path, seeds: int) -> tuple[str, dict[str, list[Runs]]]:
    """Train on CIFAR-10."""
    with divided(source) as folder:
        names = sorted(path.name for path in (folder / "train").iterdir())
        how = ("experiment=anomaly", "dataset=imagefolder", f"dataset.root={folder}")
        runs = train(seeds, names, *how)
    said = (
        "CIFAR-10's training images, recompressed as JPEG; 4,000 of a class to train on, 1,000 "
        "of each held out to test. The DCAE was tested on the official test set.\n\n"
    )
    return by_class("CIFAR-10", names, runs) + said, {"CIFAR-10": runs}


if __name__ == "__main__":
    main()
