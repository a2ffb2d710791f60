"""Probes: how well simple classifiers do on codes, beside PCA of equal size and pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from convae.data.pictures import to_floats
from convae.data.splits import Split, Splits, sample, unit
from convae.engine import to_numpy
from convae.errors import UserError
from convae.models.autoencoder import Autoencoder

NEIGHBOURS = 5
"""Training images that vote on the class of a test image."""


@dataclass(frozen=True)
class Accuracy:
    """Accuracies on test images.

    Parameters
    ----------
    features : str
        What was classified: "codes", "PCA" or "pixels".
    numbers : int
        Features of an image.
    linear, neighbours : float
        The fractions that logistic regression and the nearest neighbours classify correctly.
    """

    features: str
    numbers: int
    linear: float
    neighbours: float


def vectors(split: Split) -> np.ndarray[Any, Any]:
    """Gather images as rows of numbers in [0, 1]: -> (N, numbers) of float32."""
    rows = np.concatenate([batch.reshape(len(batch), -1) for batch in split.batches(1024)])
    return rows.astype(np.float32) * np.float32(unit(rows))


def encode_all(model: Autoencoder, split: Split, batch_size: int = 256) -> np.ndarray[Any, Any]:
    """Encode a split, one code a row: -> (N, numbers)."""
    batches = (to_floats(p, model.backend, model.dtype) for p in split.batches(batch_size))
    return np.concatenate([to_numpy(model.encode(x)).reshape(len(x), -1) for x in batches])


def compare_features(model: Autoencoder, data: Splits, limit: int) -> Iterator[Accuracy]:
    """Train classifiers on codes, PCA and pixels of the same images, at most `limit` of them.

    Untuned: logistic regression on standardised features, since its penalty is alike for all of
    them, and the vote of the 5 nearest neighbours by Euclidean distance. These see the features as
    they are: their scales belong to the representation, and standardised, the components that
    hardly vary would count as much as the leading ones.

    Accuracies are those on the test images.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, test = data.train, data.test
    if train.labels is None or test.labels is None:
        raise UserError(f"{data.name} has no labels to learn from")
    if train.shape != model.input_shape:
        raise UserError(f"images of {data.name} are {train.shape}, the model's {model.input_shape}")
    train = sample(train, limit)
    pixels = [vectors(split) for split in (train, test)]
    components = min(model.code_size, *pixels[0].shape)
    pca = PCA(components, random_state=0).fit(pixels[0])
    features = {
        "codes": [encode_all(model, split) for split in (train, test)],
        "PCA": [pca.transform(rows) for rows in pixels],
        "pixels": pixels,
    }
    for name, (fitted_on, tested_on) in features.items():
        neighbours = min(NEIGHBOURS, len(train))
        classifiers = (
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
            KNeighborsClassifier(neighbours, algorithm="brute"),
        )
        accuracies = (
            float(classifier.fit(fitted_on, train.labels).score(tested_on, test.labels))
            for classifier in classifiers
        )
        yield Accuracy(name, fitted_on.shape[1], *accuracies)
