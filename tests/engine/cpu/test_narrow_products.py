"""h of few channels and examples, and many filters: a product of matrices if memory allows it."""

from __future__ import annotations

import numpy as np
import pytest

from convae.engine import ArrayBackend, definition
from convae.engine.cpu import backend as module
from convae.engine.cpu.backend import NumpyBackend
from convae.engine.geometry import resolve


@pytest.mark.parametrize(("examples", "channels"), [(1, 1), (1, 3), (2, 1), (2, 3), (1, 8)])
@pytest.mark.parametrize("filters", [31, 32, 40])
@pytest.mark.parametrize("memory", [0, 1 << 30])
@pytest.mark.parametrize("stride", [(1, 1), (1, 2)])
def test_both_ways(
    rng,
    monkeypatch,
    examples: int,
    channels: int,
    filters: int,
    memory: int,
    stride: tuple[int, int],
) -> None:
    taken = []
    monkeypatch.setattr(module, "COLUMN_BYTES", memory)
    portable = ArrayBackend.h
    monkeypatch.setattr(
        ArrayBackend, "h", lambda self, *rest: taken.append(1) or portable(self, *rest)
    )
    geometry = resolve(size=(9, 8), kernel=3, padding="full", stride=stride)
    K = rng.standard_normal((filters, channels, 3, 3))
    G = rng.standard_normal((examples, filters, *geometry.output))
    found = NumpyBackend().h(K, G, geometry)
    expected = definition.h(K, G, (9, 8), stride, ((2, 2), (2, 2)), (1, 1), 1)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    is_narrow = channels * examples < 8 and 1 in (examples, channels)
    assert bool(taken) == (is_narrow and filters >= 32 and memory > 0 and stride == (1, 1))
