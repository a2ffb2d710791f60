"""The benchmarked training steps; imports nothing from PyTorch."""

from __future__ import annotations

import numpy as np

import convae
from convae import Layer
from convae.data.pictures import to_floats

Workload = tuple[int, tuple[int, int, int], list[tuple[int, int, int]]]
"""Batch size, image shape, and (filters, kernel, stride) of each layer."""

WORKLOADS: dict[str, Workload] = {
    "1x28x28 b256: 32@5/2 64@3/2": (256, (1, 28, 28), [(32, 5, 2), (64, 3, 2)]),
    "1x28x28 b128: 32@5/1": (128, (1, 28, 28), [(32, 5, 1)]),
    "3x32x32 b128: 64@5/2 128@3/2": (128, (3, 32, 32), [(64, 5, 2), (128, 3, 2)]),
    "3x64x64 b64: 32@5/2 64@3/2 128@3/2": (
        64,
        (3, 64, 64),
        [(32, 5, 2), (64, 3, 2), (128, 3, 2)],
    ),
    "3x64x64 b64: 32@5/2 64@5/2 128@5/2": (
        64,
        (3, 64, 64),
        [(32, 5, 2), (64, 5, 2), (128, 5, 2)],
    ),
    "3x32x32 b128: 64@5/2 64@3/1 64@3/1": (
        128,
        (3, 32, 32),
        [(64, 5, 2), (64, 3, 1), (64, 3, 1)],
    ),
}


def build(workload: Workload) -> tuple[convae.Autoencoder, np.ndarray]:
    """Create a workload's model and batch; odd kernels make 'same' symmetric, as in PyTorch."""
    batch, shape, layers = workload
    model = convae.Autoencoder(
        shape, [Layer(f, kernel=k, stride=s, padding="same") for f, k, s in layers]
    )
    pixels = np.random.default_rng(0).integers(0, 256, (batch, *shape), dtype=np.uint8)
    return model, to_floats(pixels, model.backend, "float32")
