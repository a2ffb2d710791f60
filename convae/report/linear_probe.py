"""Linear probes: a linear classifier on codes, beside PCA of equal size and pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from convae.data.pictures import to_floats
from convae.data.splits import Split, Splits
from convae.engine import to_numpy
from convae.errors import UserError
from convae.models.autoencoder import Autoencoder
from convae.report.evaluation import vectors


def encode_all(model: Autoencoder, split: Split, batch_size: int = 256) -> np.ndarray[Any, Any]:
    """Encode a split, one code a row: -> (N, numbers)."""
    batches = (to_floats(p, model.backend, model.dtype) for p in split.batches(batch_size))
    return np.concatenate([to_numpy(model.encode(x)).reshape(len(x), -1) for x in batches])


def compare_features(
    model: Autoencoder, data: Splits, limit: int
) -> Iterator[tuple[str, int, float]]:
    """Train linear classifiers on codes, PCA and pixels of the same images.

    Logistic regression on standardised features, untuned, on at most `limit` training images.
    Yields the features' name, their number and the accuracy on the test images.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, test = data.train, data.test
    if train.labels is None or test.labels is None:
        raise UserError(f"{data.name} has no labels to learn from")
    if train.shape != model.input_shape:
        raise UserError(f"images of {data.name} are {train.shape}, the model's {model.input_shape}")
    if limit < len(train):
        train = train.select(np.sort(np.random.default_rng(0).permutation(len(train))[:limit]))
    pixels = [vectors(split, len(split)) for split in (train, test)]
    components = min(model.code_size, *pixels[0].shape)
    pca = PCA(components, random_state=0).fit(pixels[0])
    features = {
        "codes": [encode_all(model, split) for split in (train, test)],
        "PCA": [pca.transform(rows) for rows in pixels],
        "pixels": pixels,
    }
    for name, (fitted_on, tested_on) in features.items():
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        classifier.fit(fitted_on, train.labels)
        accuracy = float(classifier.score(tested_on, test.labels))
        yield name, fitted_on.shape[1], accuracy
