"""Scores against their formulas, written out pixel by pixel."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from convae import configuration
from convae.report.quality import ssim
from convae.report.scores import SCORES, SMOOTHED_PART, Normal, Seen


@pytest.fixture
def normal(rng) -> Normal:
    A = rng.normal(size=(5, 5))
    return Normal(
        rng.random((2, 24, 26)).astype("f"), rng.normal(size=5), A, np.array([[-3, 2], [0.5, 0.1]])
    )


def seen(xp: ModuleType, rng, normal: Normal | None, size: tuple[int, ...] = (24, 26)) -> Seen:
    x = rng.random((4, 2, *size))
    R = np.clip(x + 0.2 * rng.normal(size=x.shape), 0, 1)
    H = rng.normal(size=(4, 5, *(1 for _ in size)))
    return Seen(*map(xp.asarray, (x, R, H)), normal)


def values(name: str, given: Seen) -> np.ndarray:
    found = SCORES[name].function(given)
    assert found.shape == (len(given.x),)
    assert found.dtype == np.float64
    return found


def host(given: Seen) -> tuple[np.ndarray, np.ndarray]:
    x, R = (array.get() if hasattr(array, "get") else array for array in (given.x, given.R))
    return x, R


def test_the_names_are_those_of_the_configuration() -> None:
    assert tuple(SCORES) == configuration.SCORES


def test_squared_error_and_that_of_the_mean_image(xp: ModuleType, rng, normal) -> None:
    given = seen(xp, rng, normal)
    x, R = host(given)
    errors = ((x - R) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(values("squared_error", given), errors, rtol=1e-12)
    around = ((x - normal.mean_image) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(values("relative", given), errors / (around + 1e-6), rtol=1e-9)


def test_similarity(xp: ModuleType, rng, normal) -> None:
    given = seen(xp, rng, normal)
    np.testing.assert_allclose(values("ssim", given), 1 - ssim(*host(given)), rtol=1e-9)
    same = Seen(given.x, given.x, given.H)
    assert np.abs(values("ssim", same)).max() < 1e-12
    assert np.abs(values("ms_ssim", same)).max() < 1e-12


def test_similarity_over_scales(xp: ModuleType, rng) -> None:
    """Of 24x26 pixels two scales have room for the window of 11."""
    given = seen(xp, rng, None)
    x, R = host(given)

    def halved(a: np.ndarray) -> np.ndarray:
        return a.reshape(4, 2, 12, 2, 13, 2).mean(axis=(3, 5))

    at = np.arange(-5, 6)
    w = np.exp(-(at[:, None] ** 2 + at**2) / (2 * 1.5**2))
    w /= w.sum()

    def contrast(a: np.ndarray, b: np.ndarray) -> float:
        found = []
        for i in range(a.shape[0] - 10):
            for j in range(a.shape[1] - 10):
                p, q = (image[i : i + 11, j : j + 11] for image in (a, b))
                mp, mq = (w * p).sum(), (w * q).sum()
                c = (w * (p - mp) * (q - mq)).sum()
                v = (w * (p - mp) ** 2).sum() + (w * (q - mq) ** 2).sum()
                found.append((2 * c + 0.03**2) / (v + 0.03**2))
        return float(np.mean(found))

    first = np.array([np.mean([contrast(x[n, c], R[n, c]) for c in (0, 1)]) for n in range(4)])
    second = ssim(halved(x), halved(R))
    a, b = 0.0448 / (0.0448 + 0.2856), 0.2856 / (0.0448 + 0.2856)
    expected = 1 - first.clip(0) ** a * second.clip(0) ** b
    np.testing.assert_allclose(values("ms_ssim", given), expected, rtol=1e-9)


def test_gradients(xp: ModuleType, rng) -> None:
    given = seen(xp, rng, None, (6, 7))
    x, R = host(given)

    def magnitude(image: np.ndarray) -> np.ndarray:
        p = np.pad(image, 1, mode="edge")
        rows, columns = image.shape
        found = np.zeros_like(image)
        for i in range(rows):
            for j in range(columns):
                near = p[i : i + 3, j : j + 3]
                down = (near[2] - near[0]).mean() / 2
                across = (near[:, 2] - near[:, 0]).mean() / 2
                found[i, j] = np.hypot(down, across)
        return found

    expected = []
    for n in range(4):
        alike = []
        for c in (0, 1):
            a, b = magnitude(x[n, c]), magnitude(R[n, c])
            alike.append((2 * a * b + 0.0026) / (a**2 + b**2 + 0.0026))
        expected.append(1 - np.mean(alike))
    np.testing.assert_allclose(values("gradient", given), expected, rtol=1e-9)


def test_the_peak_is_where_errors_are_together(xp: ModuleType) -> None:
    x = np.zeros((2, 1, 40, 56))
    x[0, 0, 20:23, 30:33] = 1  # nine together
    x[1, 0, ::13, ::18] = 1  # more, apart
    given = Seen(xp.asarray(x), xp.zeros_like(xp.asarray(x)), xp.zeros((2, 1)))
    together, apart = values("peak", given)
    assert together > 2 * apart
    assert values("squared_error", given)[0] < values("squared_error", given)[1]
    sigma = 40 / SMOOTHED_PART
    at = np.arange(-20, 21)
    w = np.exp(-(at**2) / (2 * sigma**2))
    w /= w.sum()
    assert together == pytest.approx(w[19:22].sum() ** 2, rel=1e-6)


def test_the_codes_distance_and_either_of_both(xp: ModuleType, rng, normal) -> None:
    given = seen(xp, rng, normal)
    H = given.H.get() if hasattr(given.H, "get") else given.H
    z = (H.reshape(4, 5) - normal.mean_code) @ normal.whitening
    distances = np.sqrt((z**2).mean(axis=1))
    np.testing.assert_allclose(values("mahalanobis", given), distances, rtol=1e-12)
    logs = np.log([values("ms_ssim", given), distances])
    z = (logs[0] + 3) / 2, (logs[1] - 0.5) / 0.1
    expected = np.log((np.exp(z[0]) + np.exp(z[1])) / 2)
    np.testing.assert_allclose(values("combined", given), expected, rtol=1e-9)


@pytest.mark.parametrize("size", [(9,), (40,), (3, 4), (24, 26), (5, 6, 7), (2, 1)])
@pytest.mark.parametrize("name", SCORES)
def test_maps_say_where(xp: ModuleType, rng, name: str, size: tuple[int, ...]) -> None:
    given = seen(xp, rng, None, size)
    found = SCORES[name].map(given)
    assert found.shape == (4, *size)
    same = SCORES[name].map(Seen(given.x, given.x, given.H))
    assert float(abs(same).max()) < 1e-6
    assert float(found.max()) > 1e-3
    normal = Normal(np.zeros((2, *size), "f"), np.zeros(5), np.eye(5), np.array([[0, 1.0], [0, 1]]))
    assert np.isfinite(values(name, Seen(given.x, given.R, given.H, normal))).all()
