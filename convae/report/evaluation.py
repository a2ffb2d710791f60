"""How good a model is, beside two baselines: the mean image and PCA."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from convae.data.corruption import Corruption, Use
from convae.data.pictures import to_floats
from convae.data.splits import Split
from convae.engine import backend_for
from convae.models.autoencoder import Autoencoder

PCA_IMAGES = 10_000
"""Training images that PCA is fitted on, at most."""


@dataclass(frozen=True)
class Errors:
    """Reconstruction errors against clean images.

    Parameters
    ----------
    loss : float
        The model's own loss, a mean over all elements.
    mse : float
        The mean squared error, in units of the range [0, 1] squared.
    input_mse : float
        The same of the model's input: 0 without corruption.
    """

    loss: float
    mse: float
    input_mse: float


CLEAN = Corruption()


def measure(
    model: Autoencoder,
    split: Split,
    batch_size: int,
    use: Use = Use.TEST,
    corruption: Corruption = CLEAN,
) -> Errors:
    """Measure a model on all images of a split, as means; `use` and `corruption` give the noise."""
    sums = np.zeros(3)
    for index, pixels in enumerate(split.batches(batch_size)):
        x = to_floats(pixels, model.backend, model.dtype)
        given = corruption(x, use, index)
        J, R = model.evaluate(given, target=x)
        squares = [float(((image - x) ** 2).mean(dtype="float64")) for image in (R, given)]
        sums += len(pixels) * np.array([J, *squares])
    return Errors(*(float(total) for total in sums / len(split)))


def vectors(
    split: Split, limit: int, rng: np.random.Generator | None = None
) -> np.ndarray[Any, Any]:
    """Gather images as rows of numbers in [0, 1]: -> (N, C * H * W) of float32.

    At most `limit` of them, the first ones or, with a generator, drawn at random.
    """
    count = min(limit, len(split))
    chosen = np.arange(count) if rng is None else np.sort(rng.permutation(len(split))[:count])
    rows = [batch.reshape(len(batch), -1) for batch in split.select(chosen).batches(1024)]
    return np.concatenate(rows).astype(np.float32) / 255


def mean_image_error(train: Split, test: Split) -> float:
    """Mean squared error of predicting the mean training image for every test image."""
    mean = np.zeros(train.shape)
    for batch in train.batches(1024):
        mean += batch.sum(axis=0) / (255 * len(train))
    squares = 0.0
    for batch in test.batches(1024):
        squares += float(((batch / 255 - mean) ** 2).sum())
    return squares / (len(test) * mean.size)


def pca_error(train: Split, test: Split, components: int, corruption: Corruption = CLEAN) -> float:
    """Mean squared error of PCA with as many components as a code has numbers."""
    from sklearn.decomposition import PCA

    fitted_on = vectors(train, PCA_IMAGES, np.random.default_rng(0))
    pca = None
    if components < fitted_on.shape[1]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of equal images, without variance
            pca = PCA(min(components, len(fitted_on)), random_state=0).fit(fitted_on)
    squares = 0.0
    for index, batch in enumerate(test.batches(1024)):
        x = to_floats(batch, backend_for("cpu"), "float32")
        rows = corruption(x, Use.TEST, index).reshape(len(batch), -1)
        kept = rows if pca is None else pca.inverse_transform(pca.transform(rows))
        squares += float(((kept - x.reshape(len(batch), -1)) ** 2).sum())
    return squares / (len(test) * int(fitted_on.shape[1]))
