"""Examples that need no files: signals like heartbeats, and volumes with solids in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from convae.data.array_files import Stack
from convae.data.array_reading import Labelled, dataset_of
from convae.data.layouts import Values
from convae.data.reading import Dataset

RATE = 100
"""Values of a heartbeat in a second."""

LENGTH = 128
"""Values of a heartbeat."""

WAVES = {
    # centre and width in seconds, height in both leads, in millivolts
    "P": (-0.18, 0.025, (0.15, 0.08)),
    "Q": (-0.03, 0.010, (-0.12, -0.05)),
    "R": (0.0, 0.012, (1.1, 0.6)),
    "S": (0.035, 0.012, (-0.25, -0.4)),
    "T": (0.26, 0.050, (0.3, 0.2)),
}
"""A heartbeat as a sum of Gaussian waves, as in the model of McSharry et al. 2003."""

BEATS = ("normal", "ventricular", "no_p_wave", "st_elevation")
"""Kinds of heartbeats; seven of ten are normal."""

SOLIDS = ("ball", "box", "ring")
"""Kinds of volumes."""

SIDE = 16
"""Positions of a volume along each axis."""


def _beats(count: int, rng: np.random.Generator) -> tuple[Values, list[str]]:
    """Draw heartbeats: -> (N, 2, LENGTH) of float32, in millivolts, and their kinds."""
    kinds = rng.choice(len(BEATS), count, p=[0.7, 0.1, 0.1, 0.1])
    seconds = np.arange(LENGTH) / RATE - 0.5
    beats = np.zeros((count, 2, LENGTH))
    for n, kind in enumerate(kinds):
        stretch, delay = rng.uniform(0.85, 1.15), rng.uniform(-0.03, 0.03)
        is_wide = BEATS[kind] == "ventricular"
        for name, (centre, width, heights) in WAVES.items():
            if name == "P" and BEATS[kind] in ("no_p_wave", "ventricular"):
                continue
            wide = width * (4 if is_wide and name in "QRS" else 1) * rng.uniform(0.9, 1.1)
            sign = -1 if is_wide and name == "T" else 1
            wave = np.exp(-0.5 * ((seconds - delay - centre * stretch) / wide) ** 2)
            beats[n] += sign * rng.uniform(0.85, 1.15) * np.outer(heights, wave)
        if BEATS[kind] == "st_elevation":
            begin, end = delay + 0.05, delay + 0.24 * stretch
            plateau = 1 / (1 + np.exp(-(seconds - begin) / 0.01) + np.exp((seconds - end) / 0.02))
            beats[n] += np.outer((0.25, 0.18), plateau)
        drift = np.sin(2 * np.pi * (0.3 * seconds + rng.random()))
        beats[n] += 0.05 * rng.uniform(0, 1, (2, 1)) * drift
    beats += rng.normal(0, 0.02, beats.shape)
    return beats.astype(np.float32), [BEATS[kind] for kind in kinds]


def _volumes(count: int, rng: np.random.Generator) -> tuple[Values, list[str]]:
    """Draw volumes: -> (N, 1, SIDE, SIDE, SIDE) of float32, and the kinds of their solids."""
    kinds = rng.integers(len(SOLIDS), size=count)
    places = np.stack(np.meshgrid(*[np.arange(SIDE)] * 3, indexing="ij"))  # (3, SIDE, SIDE, SIDE)
    volumes = np.empty((count, 1, SIDE, SIDE, SIDE))
    for n, kind in enumerate(kinds):
        size = rng.uniform(3, 5)
        offset = places - rng.uniform(6, SIDE - 7, (3, 1, 1, 1))
        distance = {
            "ball": np.sqrt((offset**2).sum(axis=0)) - size,
            "box": np.abs(offset).max(axis=0) - 0.8 * size,
            "ring": np.hypot(np.hypot(offset[1], offset[2]) - size, offset[0]) - 0.35 * size,
        }[SOLIDS[kind]]
        volumes[n, 0] = rng.uniform(0.6, 1) / (1 + np.exp(2 * distance))
    volumes += rng.normal(0, 0.03, volumes.shape)
    return volumes.astype(np.float32), [SOLIDS[kind] for kind in kinds]


SYNTHETIC = {
    "synthetic_beats": (_beats, "NCL", 3_000, 1_000),
    "synthetic_volumes": (_volumes, "NCDHW", 1_500, 500),
}
"""What draws examples, their layout, and how many there are to train on and to test."""


def synthetic(name: str) -> Dataset:
    """Draw a dataset, always the same one."""
    draw, layout, *counts = SYNTHETIC[name]
    parts: dict[str, Labelled] = {}
    for seed, (part, count) in enumerate(zip(("train", "test"), counts, strict=True)):
        values, kinds = draw(count, np.random.default_rng(seed))
        path = Path(name) / part
        stack = Stack(path, values.shape, values.dtype, values=values)
        parts[part] = [(stack, list(kinds))]
    return dataset_of(parts, layout)
