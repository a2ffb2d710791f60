"""Pictures: where each image lands, and what its levels become."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from convae.report.pictures import (
    BACKGROUND,
    GAP,
    WIDEST,
    comparison,
    error_maps,
    feature_maps,
    filter_grid,
    grid,
    png,
    rows_of_pictures,
)


def test_grid_places_images_row_by_row() -> None:
    images = np.linspace(0, 1, 5)[:, None, None, None] * np.ones((5, 1, 60, 50))
    picture = grid(images, columns=3)
    assert picture.shape == (2 * 60 + GAP, 3 * 50 + 2 * GAP, 3)
    assert [tuple(picture[r, c]) for r, c in ((0, 0), (0, 60), (0, 120), (70, 10), (70, 60))] == [
        (level,) * 3 for level in (0, 64, 128, 191, 255)
    ]
    assert (picture[60 : 60 + GAP] == BACKGROUND).all()


def test_small_images_are_enlarged_and_values_cut_off() -> None:
    picture = grid(np.array([-1.0, 2.0]).reshape(1, 1, 1, 2), columns=1)
    assert picture.shape == (24, 48, 3)
    assert (picture[:, :24] == 0).all()
    assert (picture[:, 24:] == 255).all()


def test_originals_are_above_their_reconstructions() -> None:
    x, R = np.zeros((3, 3, 50, 50)), np.ones((3, 3, 50, 50))
    picture = rows_of_pictures(x, R)
    assert picture.shape == (2 * 50 + GAP, 3 * 50 + 2 * GAP, 3)
    assert (picture[:50, :50] == 0).all()
    assert (picture[50 + GAP :, :50] == 255).all()


@pytest.mark.parametrize("side", [8, 28, 100])
@pytest.mark.parametrize("is_noisy", [True, False])
@pytest.mark.parametrize("errors", [True, False])
def test_each_row_of_a_comparison_has_its_label(rng, side, is_noisy, errors) -> None:
    x, given, R = rng.random((3, 5, 1, side, side))
    picture = comparison(x, given if is_noisy else None, R, errors)
    rows = [x, *([given] if is_noisy else []), R, *([error_maps(x, R)] if errors else [])]
    images = rows_of_pictures(*rows)
    left = picture.shape[1] - images.shape[1]
    assert (picture[:, left:] == images).all()
    letters = (picture[:, :left] != BACKGROUND).any(axis=2)
    height = (len(picture) + GAP) // len(rows)
    bands = [letters[row * height : (row + 1) * height] for row in range(len(rows))]
    widths = []
    for band in bands:  # letters in the middle, not cut off
        down, across = (np.flatnonzero(band.any(axis=axis)) for axis in (1, 0))
        assert height * 0.2 < down.min() < down.max() < height * 0.8
        assert GAP <= across.min() < across.max() <= left - GAP
        widths.append(np.ptp(across))
    words = ["original", *(["noisy"] if is_noisy else []), "reconstruction"]
    words += ["error"] if errors else []
    narrowest_first = ["error", "noisy", "original", "reconstruction"]
    assert [words[row] for row in np.argsort(widths)] == [w for w in narrowest_first if w in words]


def test_many_wide_pictures_continue_below(rng) -> None:
    x = rng.random((7, 1, 40, 600))
    picture = comparison(x, None, x)
    columns = WIDEST // (600 + GAP)
    assert columns == 2
    images = picture[:, -(columns * (600 + GAP) - GAP) :]
    assert len(picture) == 4 * (2 * 40 + GAP) + 3 * 2 * GAP
    for n in range(7):
        top = n // columns * (2 * 40 + 3 * GAP)
        left = n % columns * (600 + GAP)
        shown = images[top : top + 40, left : left + 600, 0]
        assert (shown == np.rint(x[n, 0] * 255)).all()
    assert (images[-40:, -600:] == BACKGROUND).all()  # there are no more


@pytest.mark.parametrize("size", [(30,), (6, 5), (4, 5, 6)])
def test_examples_of_any_kind_are_compared(rng, size) -> None:
    x = rng.normal(0, 50, (3, 2, *size))
    picture = comparison(x, x, x + 100, errors=True)
    assert picture.dtype == np.uint8
    height = (len(picture) + GAP) // 4
    rows = [picture[n * height : n * height + height - GAP, -40:] for n in range(4)]
    assert (rows[0] == rows[1]).all()
    assert (rows[0] != rows[2]).any()
    same = comparison(x, x, x, errors=True)
    assert (same[-(height - GAP) :, -40:] != rows[3]).any()


@pytest.mark.parametrize("size", [(30,), (6, 5), (4, 5, 6)])
def test_feature_maps_of_any_kind(rng, size) -> None:
    H = rng.random((5, *size))
    H[2] = 0.5  # constant: black
    picture = feature_maps(H)
    assert picture.dtype == np.uint8
    assert picture.max() == 255
    if len(size) == 1:
        assert picture.shape == (5 * 8 + 4, 120, 3)
        assert (picture[2 * 9 : 2 * 9 + 8] == 0).all()


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((8, 1, 5, 5), 2),
        ((8, 3, 5, 5), 2),
        ((8, 7, 5, 5), 2),
        ((4, 2, 2, 1, 5, 5), 2),
        ((4, 6, 6, 3, 5, 5), 2),
        ((8, 1, 5), 1),
        ((8, 4, 1, 5), 1),
        ((4, 2, 2, 2, 1, 3, 5, 5), 3),
        ((8, 1, 3, 5, 5), 3),
        ((1000, 1, 3, 3), 2),
    ],
)
def test_filters_of_every_kind_have_a_picture(rng, shape, axes: int) -> None:
    picture = filter_grid(rng.standard_normal(shape), axes)
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert min(picture.shape[:2]) >= 5
    assert picture.min() < 128 < picture.max()


def test_kernels_of_a_tile_stand_at_their_places() -> None:
    K = np.zeros((1, 2, 3, 1, 2, 2))
    K[0, 1, 2] = 0.1  # stretched to white
    picture = filter_grid(K, 2)
    factor = picture.shape[1] // (3 * 12 + 2)  # three kernels of 12 pixels, two lines between them
    assert picture.shape == ((2 * 12 + 1) * factor, (3 * 12 + 2) * factor, 3)
    assert (picture[13 * factor :, 26 * factor :] == 255).all()
    assert (picture[: 12 * factor, : 12 * factor] == 128).all()


def test_zero_is_mid_grey_and_png_is_readable() -> None:
    picture = filter_grid(np.zeros((1, 1, 3, 3)), 2)
    read = np.asarray(Image.open(io.BytesIO(png(picture))))
    assert (read == 128).all()
