"""Random numbers by counting."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from convae.data.noise import Noise
from convae.engine import to_numpy


def test_the_first_numbers_of_splitmix64() -> None:
    """Those of the generator in Java's SplittableRandom for the seed 1234567."""
    noise = Noise(np, [0])
    noise._state = np.uint64(1234567)
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert noise.bits(3).tolist() == expected
    assert noise.bits(2, first=3).tolist() == [4593380528125082431, 16408922859458223821]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_distributions(dtype: str) -> None:
    uniform = Noise(np, [1, 2]).uniform((100, 1000), dtype)
    normal = Noise(np, [1, 3]).normal((100, 1000), dtype)
    assert uniform.dtype == normal.dtype == dtype
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert stats.kstest(uniform.ravel(), "uniform").pvalue > 0.01
    assert stats.kstest(normal.ravel(), "norm").pvalue > 0.01
    for values in (uniform, normal):  # neighbours, and the two halves of normal numbers
        flat = values.ravel()
        for distance in (1, 2, flat.size // 2):
            assert abs(np.corrcoef(flat[:-distance], flat[distance:])[0, 1]) < 0.02


def test_streams_are_their_own() -> None:
    first = Noise(np, [1, 3, 0, 7])
    assert (Noise(np, [1, 3, 0, 7]).uniform((9,)) == first.uniform((9,))).all()
    others = [Noise(np, entropy).uniform((1000,)) for entropy in ([1, 3, 0, 8], [2, 3, 0, 7])]
    for other in others:
        assert abs(np.corrcoef(Noise(np, [1, 3, 0, 7]).uniform((1000,)), other)[0, 1]) < 0.1


def test_odd_counts_and_none() -> None:
    assert Noise(np, [1]).normal((3, 5)).shape == (3, 5)
    assert Noise(np, [1]).normal((0, 5)).shape == (0, 5)


@pytest.mark.parametrize("count", [24, 25])
def test_parts_of_a_draw(count: int) -> None:
    noise = Noise(np, [1, 2])
    uniform, normal = noise.uniform((count,)), noise.normal((count,))
    for first in range(count):
        for end in range(first, count + 1):
            size = (end - first,)
            assert (noise.uniform(size, first=first) == uniform[first:end]).all()
            part = noise.normal(size, first=first, whole=count)
            np.testing.assert_allclose(part, normal[first:end], rtol=1e-5, atol=1e-6)


def test_devices_draw_the_same(xp) -> None:
    for kind in ("uniform", "normal"):
        own = getattr(Noise(xp, [4, 5]), kind)((7, 11))
        expected = getattr(Noise(np, [4, 5]), kind)((7, 11))
        np.testing.assert_allclose(to_numpy(own), expected, rtol=1e-5, atol=1e-6)
