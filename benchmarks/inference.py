"""`reconstruct` against PyTorch's inference, stack by stack: python -m benchmarks.inference."""

from __future__ import annotations

import sys

import convae
from benchmarks.comparison import compare
from benchmarks.contestants import RECONSTRUCTIONS


def work(model: convae.Autoencoder) -> int:
    """Count the multiply-accumulates of a reconstruction."""
    layers = model.layers
    return 2 * sum(
        layer.geometry.macs(layer.input_shape[0], layer.spec.filters) for layer in layers
    )


if __name__ == "__main__":
    command = "python -m benchmarks.inference"
    compare("inference_cpu", command, RECONSTRUCTIONS, work, sys.argv[1:])
