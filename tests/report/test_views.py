"""Examples as pictures: where a curve runs, which slices are shown, and in which range."""

from __future__ import annotations

import numpy as np
import pytest

from convae.report.views import BAND, NARROWEST, WIDEST, Limits, pictures_of


def ink(picture: np.ndarray) -> np.ndarray:
    """Where something darker than paper is drawn: (rows, columns) of bool."""
    darkest: np.ndarray = picture.min(axis=0)
    return darkest < 0.7


def test_a_curve_runs_through_its_values() -> None:
    ramp = np.linspace(0, 1, NARROWEST)
    (picture,) = pictures_of(np.stack([ramp, 1 - ramp])[:, None])[:1]
    assert picture.shape == (3, BAND, NARROWEST)
    rows = [np.flatnonzero(column).mean() for column in ink(picture).T]
    assert rows[3] > 0.8 * BAND
    assert rows[-4] < 0.2 * BAND
    expected = BAND * (0.08 + 0.84 * (1 - ramp))
    np.testing.assert_allclose(rows[1:-1], expected[1:-1], atol=1.5)


@pytest.mark.parametrize("length", [1, 2, 50, 150, 4000])
@pytest.mark.parametrize("channels", [1, 2, 12])
def test_signals_of_any_length_have_a_picture(rng, length: int, channels: int) -> None:
    x = rng.random((3, channels, length))
    pictures = pictures_of(x, behind=1 - x)
    count, _, height, width = pictures.shape
    assert count == 3
    assert NARROWEST <= width <= WIDEST
    band = height // channels
    for channel in range(channels):  # something is drawn in each band
        assert ink(pictures[0, :, channel * band : (channel + 1) * band]).any()


def test_channels_have_bands_of_their_own() -> None:
    x = np.zeros((1, 2, 100))
    x[0, 1] = 1
    (picture,) = pictures_of(x)
    rows = np.flatnonzero(ink(picture).any(axis=1))
    assert 0.4 * len(picture[0]) < rows.min() < rows.max() < 0.6 * len(picture[0])


def test_values_that_are_not_finite_or_far_out_stay_in_their_band() -> None:
    x = np.zeros((1, 2, 100))
    x[0, 0, 10:20], x[0, 0, 30] = 1e9, np.nan
    (picture,) = pictures_of(x)
    assert ink(picture)[0].any()
    x[0, 0] = 0
    (other,) = pictures_of(x)
    half = picture.shape[1] // 2
    assert (picture[:, half:] == other[:, half:]).all()


def test_what_stands_behind_is_paler() -> None:
    x = np.zeros((1, 1, 100))
    (alone,), (both,) = pictures_of(x), pictures_of(x, behind=x + 1)
    top = slice(0, BAND // 3)
    assert alone[:, top].min() > 0.9
    assert 0.5 < both[:, top].min() < 0.9
    (same,) = pictures_of(x, behind=x)
    assert (same == alone).all()


def test_the_middle_slices_of_a_volume() -> None:
    x = np.zeros((1, 1, 40, 41, 42))
    x[0, 0, 20], x[0, 0, :, 20], x[0, 0, :, :, 21] = 0.25, 0.5, 0.75
    (picture,) = pictures_of(x)
    assert picture.shape == (1, 41, 42 + 1 + 42 + 1 + 41)
    assert picture[0, 5, 5] == 0.25
    assert picture[0, 5, 43 + 5] == 0.5
    assert picture[0, 5, 86 + 5] == 0.75
    assert pictures_of(x[:, :, :4, :4, :4]).shape[2] == 32  # small ones are enlarged


@pytest.mark.parametrize(("channels", "shown"), [(1, 1), (2, 1), (3, 3), (7, 1)])
def test_channels_of_images(rng, channels: int, shown: int) -> None:
    x = rng.random((2, channels, 5, 6))
    pictures = pictures_of(x)
    assert pictures.shape == (2, shown, 5, 6)
    if shown == 1:
        np.testing.assert_allclose(pictures[:, 0], x.mean(axis=1))


def test_limits() -> None:
    unit = np.array([0.25, 0.5])
    assert (Limits(unit)(unit) == unit).all()
    x = np.array([-3.0, 1.0, 5.0])
    np.testing.assert_allclose(Limits(x)(np.array([-3, 5, 9])), [0, 1, 1.5])
    assert np.isfinite(Limits(np.array([7.0]))(np.array([7.0, 8.0]))).all()
