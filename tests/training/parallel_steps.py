"""Fifty steps of a model, alone or by the processes of torchrun: ``parallel_steps.py OUT``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

import convae
from convae.data.augmentation import Augmentation
from convae.data.corruption import Corruption, Use
from convae.data.splits import InMemory, own_batches
from convae.processes import ALONE, Group
from convae.training.averaging import MovingAverage

STEPS, BATCH, IMAGES = 50, 12, 37
"""A last batch of one image: of several processes all but one have nothing of it."""

KERNELS: dict[str, dict[str, Any]] = {
    "shared": {},
    "tiled": {"sharing": "tiled", "tile": 2},
    "local": {"sharing": "local"},
}


def model_of(kernel: str, dtype: str, **how: Any) -> convae.Autoencoder:
    layers = [
        convae.Layer(filters=6, kernel=3, stride=2, padding="same", **KERNELS[kernel]),
        convae.Layer(filters=5, kernel=3, padding="same", activation="sigmoid", **KERNELS[kernel]),
    ]
    return convae.Autoencoder((1, 8, 8), layers, seed=3, dtype=dtype, **how)


def classifier_of(dtype: str) -> convae.Classifier:
    layers = [
        convae.Layer(filters=6, kernel=3, padding="same", pool=2),
        convae.Layer(filters=4, kernel="input", activation="identity"),
    ]
    return convae.Classifier((1, 8, 8), layers, seed=3, dtype=dtype)


CASES: dict[str, Any] = {
    **{
        f"{kernel} {dtype}": (lambda kernel=kernel, dtype=dtype: model_of(kernel, dtype))
        for kernel in KERNELS
        for dtype in ("float32", "float64")
    },
    "winners float64": lambda: model_of("shared", "float64", spatial=True, lifetime=0.3),
    "classifier float64": lambda: classifier_of("float64"),
}


def train(model: Any, group: Group) -> dict[str, np.ndarray[Any, Any]]:
    """Train on noisy, moving images with clipping, a moving average and penalties."""
    rng = np.random.default_rng(0)
    images = InMemory(rng.random((IMAGES, 1, 8, 8)))
    labels = rng.integers(0, 4, IMAGES)
    corruption, augmentation = Corruption("gaussian", 0.1, seed=1), Augmentation(True, 1, seed=2)
    average = MovingAverage(model, 0.9)
    is_classifier = isinstance(model, convae.Classifier)
    has_mean = not is_classifier and not model.winners
    penalty = convae.Penalty(weight_decay=1e-3, kl=0.1) if has_mean else convae.Penalty()
    optimizer = convae.Adam(learning_rate=1e-2, epsilon=1e-3)
    how = {"clip_norm": 0.05, "penalty": penalty, "average": average, "group": group}
    step = convae.TrainingStep(model, optimizer, **how)
    losses: list[float] = []
    while len(losses) < STEPS:
        for own in own_batches(images, BATCH, group, rng.permutation(IMAGES)):
            clean = augmentation(own.pixels, len(losses), own.share).astype(model.dtype)
            x = corruption(clean, Use.TRAINING, len(losses), own.share)
            target = labels[own.positions] if is_classifier else clean
            losses.append(float(step(x, target, own.share)))
    return {
        "losses": np.array(losses),
        "parameters": np.array(model.flat_parameters),
        "average": np.array(average.parameters),
    }


def main(out: Path) -> None:
    """Train all cases with the processes that there are, and keep what the first finds."""
    group = convae.join()
    for name, build in CASES.items():
        found = train(build(), group)
        group.agree(parameters=found["parameters"].tobytes().hex())
        if group.is_first:
            np.savez(out / f"{name}.npz", **found)


def alone(name: str) -> dict[str, np.ndarray[Any, Any]]:
    """Train a case in this process."""
    return train(CASES[name](), ALONE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
