"""The schemes are the trilinear form, exactly, with as many multiplications as they promise."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import pytest

from convae.engine.cpu.toom_cook import POINTS, possible, scheme

CASES = [case for case in product(range(1, 7), range(1, 4), range(1, 6)) if possible(*case)]


@pytest.mark.parametrize(("kernel", "stride", "tile"), CASES)
def test_a_scheme_is_the_trilinear_form(kernel: int, stride: int, tile: int) -> None:
    found = scheme(kernel, stride, tile)
    positions = stride * (tile - 1) + kernel
    for m, y, j in product(range(kernel), range(positions), range(tile)):
        rows = zip(found.K, found.V, found.G, strict=True)
        assert sum(K[m] * V[y] * G[j] for K, V, G in rows) == (y == j * stride + m)


def test_numbers_worked_by_hand() -> None:
    """Karatsuba: two outputs of two elements with three multiplications."""
    found = scheme(2, 1, 2)
    assert found.K == found.G == [[1, 0], [1, 1], [0, 1]]
    assert found.V == [[1, -1, 0], [0, 1, 0], [0, -1, 1]]


@pytest.mark.parametrize(
    ("kernel", "stride", "tile", "multiplications"),
    [(3, 1, 2, 4), (3, 1, 4, 6), (5, 1, 2, 6), (3, 2, 4, 9), (5, 2, 4, 11), (1, 1, 4, 4)],
)
def test_multiplications(kernel: int, stride: int, tile: int, multiplications: int) -> None:
    assert len(scheme(kernel, stride, tile).K) == multiplications


def test_points_run_out() -> None:
    assert len(set(POINTS)) == len(POINTS)
    assert all(isinstance(point, Fraction) for point in POINTS)
    assert not possible(5, 1, 4)
    assert not possible(7, 1, 2)
    assert possible(7, 1, 1)
    assert possible(1, 1, 99)
