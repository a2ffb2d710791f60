"""Anomalies by reconstruction error: images unlike those trained on are reconstructed badly."""

from __future__ import annotations

from typing import Any

import numpy as np

from convae.autoencoder import Autoencoder
from convae.engine import Array, to_numpy
from convae.splits import Split, to_floats


def image_errors(x: Array, R: Array) -> np.ndarray[Any, Any]:
    """Measure each image's reconstruction error.

    Parameters
    ----------
    x, R : (N, *shape) ndarray
        Images in [0, 1] and their reconstructions.

    Returns
    -------
    (N,) ndarray of float64
        Mean squared error of each image, over its channels and pixels.
    """
    return to_numpy(((x - R) ** 2).reshape(len(x), -1).mean(axis=1, dtype="float64"))


def score(model: Autoencoder, split: Split, batch_size: int) -> np.ndarray[Any, Any]:
    """Measure the reconstruction error of each image of a split.

    Parameters
    ----------
    model : Autoencoder
        The model.
    split : Split
        The images.
    batch_size : int
        Images at a time.

    Returns
    -------
    (N,) ndarray of float64
        Mean squared errors.
    """
    errors = []
    for pixels in split.batches(batch_size):
        x = to_floats(pixels, model.xp, model.dtype)
        errors.append(image_errors(x, model.reconstruct(x)))
    return np.concatenate(errors)


def judge(
    scores: np.ndarray[Any, Any], anomalous: np.ndarray[Any, Any], threshold: float
) -> dict[str, float]:
    """Compare scores with the truth.

    Parameters
    ----------
    scores : (N,) ndarray
        One for each image; higher is more anomalous.
    anomalous : (N,) ndarray of bool
        Which images are anomalies.
    threshold : float
        Images with a higher score are called anomalies.

    Returns
    -------
    dict
        ``auroc`` and ``auprc``, the areas below the curves of true over false positives and of
        precision over recall, which no threshold decides; ``detected`` and ``false_alarms``, the
        fractions of anomalies and of normal images beyond the threshold.

    Raises
    ------
    ValueError
        If all images are anomalies, or none is.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    if anomalous.all() or not anomalous.any():
        raise ValueError("dataset.normal: the test images are all normal, or all anomalous")
    return {
        "auroc": float(roc_auc_score(anomalous, scores)),
        "auprc": float(average_precision_score(anomalous, scores)),
        "detected": float((scores[anomalous] > threshold).mean()),
        "false_alarms": float((scores[~anomalous] > threshold).mean()),
    }
