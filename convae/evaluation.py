"""How good a model is, beside two honest baselines: the mean image, and PCA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from convae.autoencoder import Autoencoder
from convae.corruption import Corruption, Use
from convae.splits import Split, to_floats

PCA_IMAGES = 10_000
"""Training images that PCA is fitted on, at most."""


@dataclass(frozen=True)
class Errors:
    """How far reconstructions are from clean images.

    Parameters
    ----------
    loss : float
        The model's own loss, a mean over all elements.
    mse : float
        The mean squared error, in units of the range [0, 1] squared.
    input_mse : float
        The same of what the model was given: 0 without corruption.
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
    """Measure a model on all images of a split.

    Parameters
    ----------
    model : Autoencoder
        The model.
    split : Split
        The images.
    batch_size : int
        Images at a time.
    use : Use
        What for; it decides the noise.
    corruption : Corruption
        Noise on what the model is given.

    Returns
    -------
    Errors
        Means over all images.
    """
    sums = np.zeros(3)
    for index, pixels in enumerate(split.batches(batch_size)):
        x = to_floats(pixels, model.xp, model.dtype)
        given = corruption(x, use, index)
        R = model.reconstruct(given)
        J, _ = model.loss(R, x, model.output_activation)
        squares = [float(((image - x) ** 2).mean(dtype="float64")) for image in (R, given)]
        sums += len(pixels) * np.array([float(J), *squares])
    return Errors(*(float(total) for total in sums / len(split)))


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


def pca_error(train: Split, test: Split, components: int, corruption: Corruption = CLEAN) -> float:
    """Mean squared error of PCA with as many components as a code has numbers.

    Parameters
    ----------
    train, test : Split
        The images; PCA is fitted on at most `PCA_IMAGES` of the clean training images.
    components : int
        Numbers kept of each image. From the number of pixels on, nothing of the input is lost.
    corruption : Corruption
        Noise on the test images that PCA is given.

    Returns
    -------
    float
        Mean over all test pixels, in units of the range [0, 1] squared.
    """
    from sklearn.decomposition import PCA

    fitted_on = vectors(train, PCA_IMAGES, np.random.default_rng(0))
    pca = None
    if components < fitted_on.shape[1]:
        pca = PCA(min(components, len(fitted_on)), random_state=0).fit(fitted_on)
    squares = 0.0
    for index, batch in enumerate(test.batches(1024)):
        x = to_floats(batch, np, "float32")
        rows = corruption(x, Use.TEST, index).reshape(len(batch), -1)
        kept = rows if pca is None else pca.inverse_transform(pca.transform(rows))
        squares += float(((kept - x.reshape(len(batch), -1)) ** 2).sum())
    return squares / (len(test) * int(fitted_on.shape[1]))
