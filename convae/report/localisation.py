"""How well maps tell where anomalies are, beside masks: pixel by pixel, and region by region."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np

from convae.errors import UserError

Floats: TypeAlias = np.ndarray[Any, Any]

FALSE_POSITIVES = 0.3
"""Fraction of normal pixels up to which regions' overlap is averaged (Bergmann et al. 2020)."""


def localisation(pairs: Iterable[tuple[Floats, Floats]]) -> dict[str, float]:
    """Compare maps, higher where images are unusual, with masks of bool of the same shapes.

    Returns ``pixel_auroc``, the area under the curve of true over false positives of all pixels,
    and ``pro``, that of the regions' mean overlap over false positives up to 0.3, divided by it
    (per-region overlap; Bergmann et al. 2020). A region is what hangs together in a mask, corners
    included, and each counts the same.
    """
    from scipy.ndimage import label
    from sklearn.metrics import auc

    values, regions, sizes = [], [], [0]
    for unusual, mask in pairs:
        numbers, count = label(mask, np.ones((3,) * mask.ndim))
        values.append(np.asarray(unusual, np.float32).ravel())
        # regions are numbered on from those of earlier masks; 0 is normal
        regions.append(np.where(numbers > 0, numbers + len(sizes) - 1, 0).ravel().astype(np.int32))
        sizes += np.bincount(numbers.ravel(), minlength=count + 1)[1:].tolist()
    every = np.concatenate(values)
    region = np.concatenate(regions)
    if not region.any() or region.all():
        raise UserError("dataset: the masks mark nothing, or everything")
    order = np.argsort(-every, kind="stable")
    region = region[order]
    # thresholds lie between different values only
    last = np.append(np.flatnonzero(np.diff(every[order])), len(order) - 1)
    false = _curve(region == 0, last)
    true = _curve(region > 0, last)
    shares = 1 / np.array([np.inf, *sizes[1:]])
    overlap = _curve(shares[region], last)
    return {
        "pixel_auroc": float(auc(false, true)),
        "pro": _area_up_to(false, overlap, FALSE_POSITIVES),
    }


def _curve(weights: Floats, last: Floats) -> Floats:
    """Sum weights up to each threshold, as parts of all: from 0 to 1."""
    sums = np.cumsum(weights, dtype=np.float64)[last]
    return np.concatenate([[0], sums / sums[-1]])


def _area_up_to(x: Floats, y: Floats, limit: float) -> float:
    """Return the area under a curve up to a limit of x, divided by the limit."""
    from sklearn.metrics import auc

    inside = x <= limit
    end = np.interp(limit, x, y)
    xs, ys = np.append(x[inside], limit), np.append(y[inside], end)
    return float(auc(xs, ys) / limit)
