"""Maps beside masks: areas under curves, threshold by threshold."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import label
from sklearn.metrics import auc, roc_auc_score

from convae.errors import UserError
from convae.report.localisation import localisation


def region_overlap(maps: list[np.ndarray], masks: list[np.ndarray]) -> float:
    """PRO by its definition, at every threshold that there is."""
    values = np.unique(np.concatenate([m.ravel() for m in maps]))
    false, overlap = [0.0], [0.0]
    for threshold in values[::-1]:
        found = [m >= threshold for m in maps]
        normal = sum(int((~mask).sum()) for mask in masks)
        false.append(sum(int((f & ~m).sum()) for f, m in zip(found, masks, strict=True)) / normal)
        shares = []
        for f, mask in zip(found, masks, strict=True):
            numbers, count = label(mask, np.ones((3, 3)))
            shares += [f[numbers == n].mean() for n in range(1, count + 1)]
        overlap.append(float(np.mean(shares)))
    at = [x for x in false if x <= 0.3]
    y = [o for x, o in zip(false, overlap, strict=True) if x <= 0.3]
    return float(auc([*at, 0.3], [*y, np.interp(0.3, false, overlap)]) / 0.3)


@pytest.fixture
def masks() -> list[np.ndarray]:
    """A normal picture, one with two regions that touch at a corner, one with two apart."""
    found = [np.zeros((8, 9), bool) for _ in range(3)]
    found[1][2:4, 2:4] = found[1][4:7, 4:8] = True
    found[2][0, 0] = found[2][5:7, 5:7] = True
    return found


@pytest.mark.parametrize("levels", [None, 5])
def test_areas_are_those_of_the_definitions(rng, masks, levels) -> None:
    """With few levels many values are equal."""
    maps = [rng.random((8, 9)) + 0.5 * mask for mask in masks]
    if levels:
        maps = [np.floor(m * levels) for m in maps]
    found = localisation(zip(maps, masks, strict=True))
    every, truth = (np.concatenate([a.ravel() for a in arrays]) for arrays in (maps, masks))
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(truth, every), rel=1e-6)
    assert found["pro"] == pytest.approx(region_overlap(maps, masks), rel=1e-5)


def test_perfect_maps_and_such_that_say_nothing(masks) -> None:
    found = localisation((mask.astype(float), mask) for mask in masks)
    assert found == {"pixel_auroc": 1, "pro": 1}
    found = localisation((np.ones(mask.shape), mask) for mask in masks)
    assert found["pixel_auroc"] == pytest.approx(0.5)
    assert found["pro"] == pytest.approx(0.15)


def test_every_region_counts_the_same() -> None:
    """A map that misses the small one of two regions has half of the overlap."""
    mask = np.zeros((20, 20), bool)
    mask[:10, :10] = mask[15, 15] = True
    unusual = np.zeros((20, 20))
    unusual[:10, :10] = 1
    found = localisation([(unusual, mask)])
    assert found["pro"] == pytest.approx(0.5 + 0.5 * 0.15, abs=1e-6)
    assert found["pixel_auroc"] > 0.99


def test_volumes(rng) -> None:
    mask = np.zeros((4, 5, 6), bool)
    mask[1:3, 1:3, 1:3] = True
    assert localisation([(mask + 0.1 * rng.random(mask.shape), mask)])["pro"] == 1


@pytest.mark.parametrize("value", [True, False])
def test_masks_of_one_kind_are_refused(value: bool) -> None:
    with pytest.raises(UserError, match="the masks mark nothing, or everything"):
        localisation([(np.ones((3, 3)), np.full((3, 3), value))])
