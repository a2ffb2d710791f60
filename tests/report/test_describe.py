"""A model in words."""

from __future__ import annotations

import convae
from convae.report.describe import describe, oversized


def test_layers_are_tabulated() -> None:
    layers = [convae.Layer(4, 3, stride=2, padding="same"), convae.Layer(2, "input")]
    lines = describe(convae.Autoencoder((1, 8, 8), layers)).splitlines()
    assert lines[0].split() == ["layer", "kernel", "parameters", "output", "numbers"]
    assert lines[1].split() == ["0", "4x1x3x3", str(36 + 4 + 1), "4x4x4", "64"]
    assert lines[2].split() == ["1", "2x4x4x4", str(128 + 2 + 4), "2x1x1", "2"]
    for part in ("175 parameters", "cpu", "float32", "1x8x8 = 64", "code 2"):
        assert part in lines[3]


def test_local_kernels_larger_than_the_data_are_pointed_out() -> None:
    """4 filters of 3x3 at 36 positions are 1,296 numbers; 20 images of 64 pixels are 1,280."""
    model = convae.Autoencoder((1, 8, 8), [convae.Layer(4, 3, sharing="local")])
    (warning,) = oversized(model, 20)
    for part in ("model.layers.0", "4x6x6x1x3x3", "1,296", "1,280"):
        assert part in warning
    assert oversized(model, 21) == []
    assert oversized(convae.Autoencoder((1, 8, 8), [convae.Layer(400, 3)]), 1) == []
