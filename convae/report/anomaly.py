"""Anomalies by reconstruction error: images unlike the training images are reconstructed badly."""

from __future__ import annotations

from typing import Any

import numpy as np

from convae.data.pictures import to_floats
from convae.data.splits import Split
from convae.errors import UserError
from convae.models.autoencoder import Autoencoder
from convae.report.quality import squared_errors

MOST_QUANTILES = 1001
"""Numbers that sum up the scores of a split, at most."""


def score(model: Autoencoder, split: Split, batch_size: int) -> np.ndarray[Any, Any]:
    """Mean squared error of each image of a split: -> (N,) of float64."""
    errors = []
    for pixels in split.batches(batch_size):
        x = to_floats(pixels, model.backend, model.dtype)
        errors.append(squared_errors(x, model.reconstruct(x)))
    return np.concatenate(errors)


def quantiles(scores: np.ndarray[Any, Any]) -> list[float]:
    """Sum up scores (N,) by evenly spaced quantiles, from the least to the largest.

    Up to `MOST_QUANTILES` they are the scores themselves, in order.
    """
    places = np.linspace(0, 1, min(len(scores), MOST_QUANTILES))
    return [float(value) for value in np.quantile(scores, places)]


def threshold_at(errors: Any, quantile: float) -> float:
    """Return a quantile of what `quantiles` has summed up, from a model's file.

    Raises `UserError` if the file has no such numbers.
    """
    found = np.asarray(errors if isinstance(errors, list) else [], dtype=object)
    is_number = [isinstance(value, int | float) and np.isfinite(value) for value in found]
    if not is_number or not all(is_number):
        raise UserError(
            "--quantile: the model keeps no errors of validation images; the best model of a "
            "finished run does, of this version. Give --threshold instead"
        )
    return float(np.quantile(found.astype(float), quantile))


def judge(
    scores: np.ndarray[Any, Any], anomalous: np.ndarray[Any, Any], threshold: float
) -> dict[str, float]:
    """Compare scores (N,), higher for anomalies, with the truth (N,) of bool.

    Returns ``auroc`` and ``auprc``, the areas under the curves of true over false positives and of
    precision over recall, which depend on no threshold; ``detected`` and ``false_alarms``, the
    fractions of anomalies and of normal images whose score exceeds the threshold.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    if anomalous.all() or not anomalous.any():
        raise UserError("dataset.normal: the test images are all normal, or all anomalous")
    return {
        "auroc": float(roc_auc_score(anomalous, scores)),
        "auprc": float(average_precision_score(anomalous, scores)),
        "detected": float((scores[anomalous] > threshold).mean()),
        "false_alarms": float((scores[~anomalous] > threshold).mean()),
    }
