"""Maps over pictures: colours by values, and the bar beside them."""

from __future__ import annotations

import numpy as np
import pytest

from convae.report.overlays import map_figure, overlay
from convae.report.pictures import BACKGROUND, GAP
from convae.report.views import hot


def test_colours_go_from_black_over_red_and_yellow_to_white() -> None:
    found = hot(np.array([0, 1 / 3, 2 / 3, 1, 2]))
    np.testing.assert_allclose(found.T, [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1]])


def test_what_is_usual_keeps_its_grey() -> None:
    picture = np.full((3, 4, 5), 0.4)
    unusual = np.zeros((4, 5))
    unusual[1, 2], unusual[3, 3], unusual[0, 0] = 2.0, 99, np.nan
    found = overlay(picture, unusual, top=6)
    np.testing.assert_allclose(found[:, 2, 2], 0.4)
    assert found[0, 1, 2] > 0.6 > 0.3 > found[1, 1, 2]  # red
    assert found[:, 3, 3].min() > 0.85  # as white as it gets
    assert found[:, 0, 0].min() > 0.85  # nor is NaN usual


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 40, 30), (5, 120, 100), (2, 50), (1, 6, 7, 8)])
def test_figures_of_any_kind(rng, shape) -> None:
    x = rng.random(shape)
    unusual = np.zeros(shape[1:])
    plain = map_figure(x, x, unusual, 1)
    unusual[tuple(n // 2 for n in shape[1:])] = 1
    marked = map_figure(x, x, unusual, 1)
    assert plain.shape == marked.shape
    assert plain.dtype == np.uint8
    height = len(plain)
    assert height >= 32
    differs = (plain != marked).any(axis=(0, 2))
    third = (plain.shape[1] - differs.nonzero()[0].min()) / plain.shape[1]
    assert third < 0.4  # in the last panel only
    bar = plain[:, -40:].astype(int)
    column = bar[:, (bar.sum(axis=2).max(axis=0) == 765).argmax()]
    assert (plain[:, -1] == BACKGROUND).all()
    assert GAP > 0
    top, bottom = column[0].tolist(), column[-1].tolist()
    on_paper = len(shape) == 2
    assert (top, bottom) == (([255, 0, 0], [255] * 3) if on_paper else ([255] * 3, [0] * 3))


def test_what_is_unusual_in_a_signal_stands_out(rng) -> None:
    """On paper, which is white: the more unusual, the further from white."""
    unusual = np.linspace(0, 2, 100)
    figure = map_figure(np.full((1, 100), 0.5), np.full((1, 100), 0.5), unusual, 1)
    panel = figure[10, 2 * (100 + GAP) : 3 * 100 + 2 * GAP].astype(int)
    distance = (255 - panel).sum(axis=1)
    assert (np.diff(distance) >= 0).all()
    assert distance[0] < 30
    assert distance[-1] > 400
