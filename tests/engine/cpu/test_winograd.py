"""c, h and g at the points of schemes, against PyTorch in float64."""

from __future__ import annotations

import numpy as np
import pytest

from convae import engine
from convae.engine.cpu import winograd
from convae.engine.cpu.winograd_loops import Tiling
from tests.helpers import by_pytorch, error

TOLERANCE = {"float32": 5e-6, "float64": 1e-13}

PROBLEMS = {
    # channels, size, filters, kernel, stride, padding, tile
    "whole tiles": (8, (8, 8), 32, (3, 3), (1, 1), ((1, 1), (1, 1)), (4, 4)),
    "tiles over the edge": (16, (7, 10), 24, (3, 3), (1, 1), ((1, 1), (1, 1)), (2, 3)),
    "strides, odd channels": (5, (13, 15), 37, (5, 3), (2, 2), ((2, 2), (0, 1)), (4, 4)),
    "padding beyond a tile": (9, (3, 4), 8, (3, 4), (1, 2), ((5, 6), (4, 3)), (4, 2)),
    "one axis": (12, (21,), 16, (5,), (1,), ((2, 2),), (1, 2)),
    "a stride beyond the kernel": (8, (9, 9), 8, (2, 1), (3, 2), ((0, 0), (0, 0)), (2, 2)),
}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, "float32") for name in PROBLEMS),
        ("whole tiles", "float64"),
        *(  # each is compiled on its own, which takes seconds where nothing is cached
            pytest.param(name, "float64", marks=pytest.mark.slow)
            for name in PROBLEMS
            if name != "whole tiles"
        ),
    ],
)
def test_operations_equal_pytorch(rng, name: str, dtype: str) -> None:
    channels, size, filters, kernel, stride, padding, tile = PROBLEMS[name]
    geometry = engine.resolve(size=size, kernel=kernel, stride=stride, padding=padding)
    examples = 96
    K = rng.standard_normal((filters, channels, *kernel)).astype(dtype)
    V = rng.standard_normal((examples, channels, *size)).astype(dtype)
    G = rng.standard_normal((examples, filters, *geometry.output)).astype(dtype)
    missing = (1,) * (2 - len(kernel))
    tiling = Tiling(missing + kernel, missing + stride, tile)
    V_last, G_last = (a.transpose(*range(1, a.ndim), 0) for a in (V, G))
    results = (
        winograd.c(K, V_last, geometry, tiling),
        winograd.h(K, G_last, geometry, tiling),
        winograd.g(G_last, V_last, K.shape, geometry, tiling),
    )
    Z, R, dK = by_pytorch(K, V, G, stride, padding)
    expected = (Z.transpose(*range(1, Z.ndim), 0), R.transpose(*range(1, R.ndim), 0), dK)
    for actual, wanted in zip(results, expected, strict=True):
        assert actual.shape == wanted.shape
        assert actual.dtype == dtype
        assert error(actual, wanted) < TOLERANCE[dtype]


def test_bits_are_the_same_from_run_to_run(rng) -> None:
    K = rng.standard_normal((64, 64, 3, 3), dtype="float32")
    V = rng.standard_normal((128, 64, 8, 8), dtype="float32")
    first, second = (
        [
            engine.c(K, V, padding="same"),
            engine.h(K, V, padding="same", size=8),
            engine.g(V, V, padding="same", kernel=3),
        ]
        for _ in range(2)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
