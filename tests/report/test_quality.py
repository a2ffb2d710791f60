"""PSNR and SSIM against their formulas, window by window."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from convae.report.quality import Quality, psnr, squared_errors, ssim


def by_the_formula(x: np.ndarray, R: np.ndarray) -> float:
    """Wang et al. (2004), equations 13 to 17, of one channel."""
    rows, columns = x.shape
    if min(rows, columns) >= 11:
        at = np.arange(-5, 6)
        w = np.exp(-(at[:, None] ** 2 + at**2) / (2 * 1.5**2))
    else:
        side = {8: 7, 7: 7, 6: 5, 2: 1, 1: 1}[min(rows, columns)]
        w = np.ones((side, side))
    w /= w.sum()
    values = []
    for i in range(rows - len(w) + 1):
        for j in range(columns - len(w) + 1):
            a, b = (image[i : i + len(w), j : j + len(w)] for image in (x, R))
            ma, mb = (w * a).sum(), (w * b).sum()
            va, vb = (w * (a - ma) ** 2).sum(), (w * (b - mb) ** 2).sum()
            cab = (w * (a - ma) * (b - mb)).sum()
            top = (2 * ma * mb + 0.01**2) * (2 * cab + 0.03**2)
            values.append(top / ((ma**2 + mb**2 + 0.01**2) * (va + vb + 0.03**2)))
    return float(np.mean(values))


@pytest.mark.parametrize("size", [(14, 12), (11, 11), (8, 8), (30, 7), (6, 9), (2, 2), (1, 1)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ssim_is_the_mean_over_windows_and_channels(xp: ModuleType, rng, size, dtype) -> None:
    x = rng.random((2, 3, *size))
    R = np.clip(x + rng.normal(size=x.shape) * 0.2, 0, 1)
    expected = [np.mean([by_the_formula(x[n, c], R[n, c]) for c in range(3)]) for n in range(2)]
    found = ssim(xp.asarray(x, dtype=dtype), xp.asarray(R, dtype=dtype))
    np.testing.assert_allclose(found, expected, rtol=0, atol={"float32": 1e-4}.get(dtype, 1e-12))


@pytest.mark.parametrize("size", [(15,), (8,), (12, 11, 13), (4, 6, 5)])
def test_ssim_of_signals_and_volumes(rng, size) -> None:
    """By sums under a window of as many axes."""
    x = rng.random((2, 2, *size))
    R = np.clip(x + rng.normal(size=x.shape) * 0.2, 0, 1)
    if min(size) >= 11:
        line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    else:
        line = np.ones({8: 7, 4: 3}[min(size)])
    w = line / line.sum()
    for _ in size[1:]:
        w = np.multiply.outer(w, line / line.sum())
    expected = []
    for a, b in zip(x, R, strict=True):
        values = []
        for place in np.ndindex(*(n - len(line) + 1 for n in size)):
            where = tuple(slice(n, n + len(line)) for n in place)
            for p, q in zip(a, b, strict=True):
                p, q = p[where], q[where]
                mp, mq = (w * p).sum(), (w * q).sum()
                vp, vq = (w * (p - mp) ** 2).sum(), (w * (q - mq) ** 2).sum()
                top = (2 * mp * mq + 0.01**2) * (2 * (w * (p - mp) * (q - mq)).sum() + 0.03**2)
                values.append(top / ((mp**2 + mq**2 + 0.01**2) * (vp + vq + 0.03**2)))
        expected.append(np.mean(values))
    np.testing.assert_allclose(ssim(x, R), expected, rtol=0, atol=1e-12)


def test_equal_images_are_alike(rng) -> None:
    x = rng.random((2, 1, 12, 12), dtype="float32")
    np.testing.assert_allclose(ssim(x, x), 1, rtol=1e-6)
    assert (squared_errors(x, x) == 0).all()
    assert psnr(0.0) == np.inf


def test_psnr_is_in_decibels() -> None:
    assert psnr(0.01) == pytest.approx(20)
    assert psnr(1.0) == 0


def test_quality_is_the_mean_over_images_whatever_the_batches(rng) -> None:
    x, R = rng.random((2, 5, 1, 8, 8))
    quality = Quality()
    for part in (slice(0, 3), slice(3, 5)):
        quality.add(x[part], R[part])
    errors = ((x - R) ** 2).mean(axis=(1, 2, 3))
    found = quality.figures("test")
    assert list(found) == ["test_mse", "test_psnr", "test_ssim"]
    assert found["test_mse"] == pytest.approx(errors.mean())
    assert found["test_psnr"] == pytest.approx(np.mean(10 * np.log10(1 / errors)))
    assert found["test_ssim"] == pytest.approx(
        np.mean([by_the_formula(a[0], b[0]) for a, b in zip(x, R, strict=True)])
    )
    quality.add(x[:1], x[:1])
    assert quality.figures("test")["test_psnr"] == np.inf
