"""Low-rank maps against least squares and singular value decompositions of the rows themselves."""

from __future__ import annotations

import numpy as np
import pytest

from convae.report.linear_maps import (
    Coordinates,
    LowRank,
    Moments,
    leading,
    reduced_rank,
    snapshot_basis,
)


def moments(x: np.ndarray, y: np.ndarray) -> Moments:
    """Of rows (N, L), in batches of different sizes."""
    gathered = Moments()
    for part in (slice(0, 7), slice(7, None)):
        gathered.add(x[part, None], y[part, None])
    return gathered


def test_moments_of_bytes_are_exact(rng) -> None:
    rows = rng.integers(200, 256, (3000, 2, 5), dtype=np.uint8)
    gathered = Moments()
    gathered.add(rows, rows)
    x = rows.astype(np.int64)
    sums = np.einsum("npi,npj->ij", x, x)
    assert (gathered._products == sums).all()
    centred = (x - x.mean(axis=0)).reshape(-1, 5)  # each position by its own mean
    np.testing.assert_allclose(gathered.covariance(), centred.T @ centred / 6000, atol=1e-9)


def test_the_leading_directions_are_those_of_the_singular_value_decomposition(rng) -> None:
    x = rng.normal(size=(40, 6)) * [5, 4, 3, 2, 1, 0.5]
    V = leading(moments(x, x).covariance(), 3)
    expected = np.linalg.svd(x - x.mean(axis=0))[2][:3]
    np.testing.assert_allclose(np.abs(V @ expected.T), np.eye(3), atol=1e-9)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_the_regression_of_a_rank_is_the_truncated_fit_of_least_squares(rng, rank: int) -> None:
    x = rng.normal(size=(50, 6)) @ rng.normal(size=(6, 6))
    y = x + rng.normal(size=x.shape)
    yc, xc = y - y.mean(axis=0), x - x.mean(axis=0)
    fit = yc @ np.linalg.lstsq(yc, xc, rcond=None)[0]
    U, s, V = np.linalg.svd(fit, full_matrices=False)
    expected = (U[:, :rank] * s[:rank]) @ V[:rank]
    down, up = reduced_rank(moments(y, y).covariance(), moments(y, x).covariance(), rank)
    assert (down.shape, up.shape) == ((6, rank), (rank, 6))
    np.testing.assert_allclose(yc @ down @ up, expected, atol=1e-5)


def test_without_noise_and_of_full_rank_the_regression_is_the_identity(rng) -> None:
    x = rng.normal(size=(30, 5))
    C = moments(x, x).covariance()
    down, up = reduced_rank(C, C.copy(), 5)
    np.testing.assert_allclose(down @ up, np.eye(5), atol=1e-6)


def test_values_that_never_vary_are_predicted_from_the_others(rng) -> None:
    x = rng.normal(size=(30, 5))
    y = x * [1, 1, 1, 1, 0]
    down, up = reduced_rank(moments(y, y).covariance(), moments(y, x).covariance(), 5)
    assert np.isfinite(down @ up).all()
    np.testing.assert_allclose((down @ up)[:4, :4], np.eye(4), atol=1e-6)
    assert np.abs(reduced_rank(np.zeros((2, 2)), np.zeros((2, 2)), 1)[0]).max() == 0


def test_directions_of_long_rows_come_from_the_products_between_them(rng) -> None:
    scales = np.linspace(3, 0.1, 12)
    images = 128 + 10 * (rng.normal(size=(12, 12)) * scales) @ rng.normal(size=(12, 5000))
    rows = np.clip(images, 0, 255).astype(np.uint8)
    basis = snapshot_basis(rows[:, None], 4)
    x = rows - rows.mean(axis=0)
    expected = np.linalg.svd(x, full_matrices=False)[2][:4]
    np.testing.assert_allclose(basis @ basis.T, np.eye(4), atol=1e-4)
    np.testing.assert_allclose(np.abs(basis @ expected.T), np.eye(4), atol=1e-3)
    # no more directions than differences between the images
    assert len(snapshot_basis(rows[:, None], 100)) == 11


def test_a_map_within_coordinates(rng) -> None:
    Q = np.linalg.qr(rng.normal(size=(6, 3)))[0].T
    mean, down, up = rng.normal(size=(2, 6)), rng.normal(size=(3, 2)), rng.normal(size=(2, 3))
    a, b, rows = rng.normal(size=3), rng.normal(size=3), rng.normal(size=(4, 2, 6))
    found = LowRank(Coordinates(mean, Q), down, up, a, b)(rows)
    for n in range(4):
        for p in range(2):
            z = up.T @ down.T @ (Q @ (rows[n, p] - mean[p]) - a) + b
            np.testing.assert_allclose(found[n, p], Q.T @ z + mean[p], rtol=1e-4, atol=1e-5)
