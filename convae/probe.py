"""What codes are worth: a linear classifier on them, beside pixels and PCA of equal size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from convae.autoencoder import Autoencoder
from convae.engine import to_numpy
from convae.evaluation import vectors
from convae.splits import Split, Splits, to_floats


def encode_all(model: Autoencoder, split: Split, batch_size: int = 256) -> np.ndarray[Any, Any]:
    """Encode a split, one code a row.

    Parameters
    ----------
    model : Autoencoder
        The model.
    split : Split
        Images of the model's shape.
    batch_size : int
        Images at a time.

    Returns
    -------
    (N, numbers) ndarray
        The codes.
    """
    batches = (to_floats(p, model.xp, model.dtype) for p in split.batches(batch_size))
    return np.concatenate([to_numpy(model.encode(x)).reshape(len(x), -1) for x in batches])


def probe(model: Autoencoder, data: Splits, limit: int) -> Iterator[tuple[str, int, float]]:
    """Train linear classifiers on three descriptions of the same images.

    Logistic regression on standardised features; nothing of it is tuned.

    Parameters
    ----------
    model : Autoencoder
        Its codes are the first description.
    data : Splits
        Images of the model's shape, with labels.
    limit : int
        Training images, at most.

    Yields
    ------
    name : str
        Which description.
    size : int
        Numbers of each image.
    accuracy : float
        Part of the test images that are classified right.

    Raises
    ------
    ValueError
        If the images have no labels, or another shape than the model's.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, test = data.train, data.test
    if train.labels is None or test.labels is None:
        raise ValueError(f"{data.name} has no labels to learn from")
    if train.shape != model.input_shape:
        raise ValueError(
            f"images of {data.name} are {train.shape}, the model's {model.input_shape}"
        )
    if limit < len(train):
        train = train.select(np.sort(np.random.default_rng(0).permutation(len(train))[:limit]))
    pixels = [vectors(split, len(split)) for split in (train, test)]
    components = min(model.code_size, *pixels[0].shape)
    pca = PCA(components, random_state=0).fit(pixels[0])
    descriptions = {
        "codes": [encode_all(model, split) for split in (train, test)],
        "PCA": [pca.transform(rows) for rows in pixels],
        "pixels": pixels,
    }
    for name, (fitted_on, tested_on) in descriptions.items():
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        classifier.fit(fitted_on, train.labels)
        accuracy = float(classifier.score(tested_on, test.labels))
        yield name, fitted_on.shape[1], accuracy
