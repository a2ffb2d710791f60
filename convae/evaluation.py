"""How good a model is, beside two honest baselines: the mean image, and PCA."""

from __future__ import annotations

from typing import Any

import numpy as np

from convae.autoencoder import Autoencoder
from convae.splits import Split, to_floats

PCA_IMAGES = 10_000
"""Training images that PCA is fitted on, at most."""


def mean_errors(model: Autoencoder, split: Split, batch_size: int) -> tuple[float, float]:
    """Measure a model on all images of a split.

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
    loss : float
        The model's own loss, a mean over all elements.
    mse : float
        The mean squared error, in units of the range [0, 1] squared.
    """
    loss = squares = 0.0
    for pixels in split.batches(batch_size):
        x = to_floats(pixels, model.xp, model.dtype)
        R = model.reconstruct(x)
        J, _ = model.loss(R, x, model.output_activation)
        loss += float(J) * len(pixels)
        squares += float(((R - x) ** 2).mean(dtype="float64")) * len(pixels)
    return loss / len(split), squares / len(split)


def vectors(
    split: Split, limit: int, rng: np.random.Generator | None = None
) -> np.ndarray[Any, Any]:
    """Gather images as rows of numbers in [0, 1].

    Parameters
    ----------
    split : Split
        The images.
    limit : int
        Take no more than these many.
    rng : numpy.random.Generator, optional
        Chooses them at random; the first ones if not given.

    Returns
    -------
    (N, C * H * W) ndarray of float32
        One image a row.
    """
    count = min(limit, len(split))
    chosen = np.arange(count) if rng is None else np.sort(rng.permutation(len(split))[:count])
    rows = [batch.reshape(len(batch), -1) for batch in split.select(chosen).batches(1024)]
    return np.concatenate(rows).astype(np.float32) / 255


def mean_image_error(train: Split, test: Split) -> float:
    """Mean squared error of answering every test image with the mean training image.

    Parameters
    ----------
    train, test : Split
        The images.

    Returns
    -------
    float
        Mean over all test pixels, in units of the range [0, 1] squared.
    """
    mean = np.zeros(train.shape)
    for batch in train.batches(1024):
        mean += batch.sum(axis=0) / (255 * len(train))
    squares = 0.0
    for batch in test.batches(1024):
        squares += float(((batch / 255 - mean) ** 2).sum())
    return squares / (len(test) * mean.size)


def pca_error(train: Split, test: Split, components: int) -> float:
    """Mean squared error of PCA with as many components as a code has numbers.

    Parameters
    ----------
    train, test : Split
        The images; PCA is fitted on at most `PCA_IMAGES` of the training images.
    components : int
        Numbers kept of each image. From the number of pixels on, nothing is lost.

    Returns
    -------
    float
        Mean over all test pixels, in units of the range [0, 1] squared.
    """
    from sklearn.decomposition import PCA

    fitted_on = vectors(train, PCA_IMAGES, np.random.default_rng(0))
    if components >= fitted_on.shape[1]:
        return 0.0
    pca = PCA(min(components, len(fitted_on)), random_state=0).fit(fitted_on)
    squares = 0.0
    for batch in test.batches(1024):
        rows = batch.reshape(len(batch), -1).astype(np.float32) / 255
        squares += float(((pca.inverse_transform(pca.transform(rows)) - rows) ** 2).sum())
    return squares / (len(test) * int(fitted_on.shape[1]))
