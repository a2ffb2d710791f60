"""Max-pooling over filters of their own learns to be invariant: python -m benchmarks.rotations.

A unit takes the maximum over 3x3 positions of a layer. With a shared kernel these are one filter, a
position apart; with a local one nine filters, which can learn to answer to the same thing in nine
ways (*Deep Learning*, section 9.3, figure 9.9). Classifiers are trained on digits, upright or
rotated at random by up to 45 degrees; then it is measured how much the units change when digits
they have not seen are rotated. Saves a table in benchmarks/results and a figure in docs/images.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import rotate, zoom
from sklearn.datasets import load_digits

import convae
from benchmarks.measure import keep, table
from convae.files import write_bytes
from convae.report.pictures import figure_png

REPOSITORY = Path(__file__).parents[1]

TRAINING, SEEDS, EPOCHS, BATCH = 1400, 3, 12, 128

LARGEST = 45
"""Degrees by which training digits are rotated, at most."""

ANGLES = (10, 20, 30, 45)
"""Degrees by which test digits are."""

Images = np.ndarray[Any, np.dtype[np.float32]]


def main() -> None:
    """Train all, and save the results."""
    found = {
        f"{sharing}, trained on {'rotated' if rotated else 'upright'} digits": [
            changes(sharing, rotated, seed) for seed in range(SEEDS)
        ]
        for sharing in ("shared", "local")
        for rotated in (False, True)
    }
    rows = [
        [name, *(f"{statistics.mean(run[angle] for run in runs):.2f}" for angle in ANGLES)]
        for name, runs in found.items()
    ]
    text = (
        "Mean square by which the pooled units change when a digit is rotated, over that between "
        f"two digits; test digits, means of {SEEDS} seeds.\n\n"
    )
    command = " ".join(["python -m benchmarks.rotations", *sys.argv[1:]])
    keep("rotations", command, text + table(["kernel", *(f"{a}°" for a in ANGLES)], rows))

    def draw(axes: Any) -> None:
        for name, runs in found.items():
            values = [statistics.mean(run[angle] for run in runs) for angle in ANGLES]
            line = "-" if "rotated" in name else "--"
            colour = "tab:blue" if name.startswith("local") else "tab:orange"
            axes.plot((0, *ANGLES), (0, *values), line, color=colour, marker="o", label=name)
        axes.set(xlabel="rotation (degrees)", ylabel="change of the pooled units")
        axes.legend()

    write_bytes(REPOSITORY / "docs" / "images" / "rotations.png", figure_png(draw))


def changes(sharing: str, rotated: bool, seed: int) -> dict[int, float]:
    """Train a classifier, and measure the change of its pooled units for each angle."""
    rng = np.random.default_rng(seed)
    digits = load_digits()
    images = zoom((digits.data / 16).reshape(-1, 8, 8), (1, 2, 2), order=1).clip(0, 1)
    order = rng.permutation(len(images))
    images, labels = images[order].astype("float32"), digits.target[order]
    pooling = convae.Layer(filters=20, kernel=14, sharing=sharing, pool=3)
    top = convae.Layer(filters=10, kernel="input", activation="identity")
    model = convae.Classifier((1, 16, 16), [pooling, top], seed=seed)
    step = convae.TrainingStep(model, convae.AdamW(learning_rate=1e-3, weight_decay=0.1))
    angles = np.linspace(-LARGEST, LARGEST, 13) if rotated else np.zeros(13)
    seen = np.concatenate([turned(images[:TRAINING], angle) for angle in angles])
    classes = np.tile(labels[:TRAINING], len(angles))
    for _ in range(EPOCHS):
        order = rng.permutation(len(seen))
        for first in range(0, len(seen), BATCH):
            some = order[first : first + BATCH]
            step(seen[some], classes[some])

    def units(angle: float) -> Images:
        return model.codes(turned(images[TRAINING:], angle))[0].reshape(-1, pooling.filters)

    upright = units(0)
    others = np.square(upright - upright[rng.permutation(len(upright))]).sum(axis=1).mean()
    return {
        angle: float(np.square(units(angle) - upright).sum(axis=1).mean() / others)
        for angle in ANGLES
    }


def turned(images: Images, angle: float) -> Images:
    """Rotate images (N, rows, columns) by degrees: -> (N, 1, rows, columns)."""
    found = rotate(images, angle, axes=(1, 2), reshape=False, order=1)
    return found[:, None].astype("float32")


if __name__ == "__main__":
    main()
