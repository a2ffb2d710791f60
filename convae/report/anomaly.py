"""Anomalies by reconstruction error: images unlike the training images are reconstructed badly."""

from __future__ import annotations

from typing import Any

import numpy as np

from convae.data.pictures import to_floats
from convae.data.splits import Split
from convae.errors import UserError
from convae.models.autoencoder import Autoencoder
from convae.report.quality import squared_errors


def score(model: Autoencoder, split: Split, batch_size: int) -> np.ndarray[Any, Any]:
    """Mean squared error of each image of a split: -> (N,) of float64."""
    errors = []
    for pixels in split.batches(batch_size):
        x = to_floats(pixels, model.backend, model.dtype)
        errors.append(squared_errors(x, model.reconstruct(x)))
    return np.concatenate(errors)


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
