"""Probes: how well simple classifiers do on codes, beside PCA of equal size and pixels.

Codes with positions can be pooled first: the largest value of each window, as the units of complex
cells do (*Deep Learning*, section 9.3), which forgets where exactly a feature is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from convae.data.pictures import to_floats
from convae.data.splits import Split, Splits, sample, unit
from convae.engine import to_numpy
from convae.errors import UserError
from convae.models.model import Model

Rows: TypeAlias = np.ndarray[Any, Any]

PENALTIES = (1.0, 10.0, 100.0)
"""Weights of a support vector machine's errors, of which one is chosen."""

HELD_OUT, MOST_COMPARED = 5, 10_000
"""One of so many training images is held out to choose it, and how many are used, at most."""

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
        The fractions that a linear classifier and the nearest neighbours classify correctly.
    """

    features: str
    numbers: int
    linear: float
    neighbours: float


def vectors(split: Split) -> np.ndarray[Any, Any]:
    """Gather images as rows of numbers in [0, 1]: -> (N, numbers) of float32."""
    rows = np.concatenate([batch.reshape(len(batch), -1) for batch in split.batches(1024)])
    return rows.astype(np.float32) * np.float32(unit(rows))


def encode_all(
    model: Model, split: Split, batch_size: int = 256, pool: int = 1, stride: int = 1
) -> np.ndarray[Any, Any]:
    """Encode a split, one code a row: -> (N, numbers). Windows of `pool` become their maxima."""
    batches = (to_floats(p, model.backend, model.dtype) for p in split.batches(batch_size))
    return np.concatenate(
        [pooled(to_numpy(model.encode(x)), pool, stride).reshape(len(x), -1) for x in batches]
    )


def pooled(H: np.ndarray[Any, Any], window: int, stride: int) -> np.ndarray[Any, Any]:
    """Take the maxima of windows at every `stride` positions; the last ones may be smaller.

    H (N, O, *output) -> (N, O, *windows); windows longer than an axis cover it.
    """
    if window == 1 and stride == 1:
        return H
    for axis, size in enumerate(H.shape[2:], start=2):
        starts = range(0, max(size - window, 0) + stride, stride)
        windows = [H.take(range(start, min(start + window, size)), axis) for start in starts]
        H = np.stack([part.max(axis=axis) for part in windows if part.shape[axis]], axis=axis)
    return H


def compare_features(
    model: Model,
    data: Splits,
    limit: int | None,
    classifier: str = "logistic",
    pool: int = 1,
    stride: int = 1,
) -> Iterator[Accuracy]:
    """Train classifiers on codes, PCA and pixels of the same images, at most `limit` of them.

    The linear one is "logistic" regression on standardised features, since its penalty is alike for
    all of them, or "svm", on features whose mean square is 1, with the penalty, of `PENALTIES`,
    that does best on some training images held out. The other is the vote of the 5 nearest
    neighbours by Euclidean distance. These see the features as they are: their scales belong to the
    representation, and standardised, the components that hardly vary would count as much as the
    leading ones.

    Codes are pooled as `pooled` does. Training images are those of training and validation, which a
    model without labels has seen alike. Accuracies are those on the test images.
    """
    from sklearn.decomposition import PCA
    from sklearn.neighbors import KNeighborsClassifier

    parts = [data.train, data.validation, data.test]
    if any(split.labels is None for split in parts):
        raise UserError(f"{data.name} has no labels to learn from")
    if data.train.shape != model.input_shape:
        raise UserError(
            f"images of {data.name} are {data.train.shape}, the model's {model.input_shape}"
        )
    if limit is not None:  # a part of each
        whole = len(data.train) + len(data.validation)
        of_validation = min(len(data.validation), round(limit * len(data.validation) / whole))
        parts[0] = sample(data.train, max(limit - of_validation, 1))
        parts[1] = data.validation.select(np.arange(of_validation))

    def gathered(rows: Callable[[Split], Rows]) -> tuple[Rows, Rows]:
        """Make rows of the training and of the test images."""
        found = [rows(split) for split in parts if len(split)]
        return np.concatenate(found[:-1]), found[-1]

    labels, wanted = gathered(lambda split: np.asarray(split.labels))
    pixels = gathered(vectors)
    components = min(model.code_size, *pixels[0].shape)
    pca = PCA(components, random_state=0).fit(pixels[0])
    features = {
        "codes": gathered(lambda split: encode_all(model, split, pool=pool, stride=stride)),
        "PCA": (pca.transform(pixels[0]), pca.transform(pixels[1])),
        "pixels": pixels,
    }
    for name, (fitted_on, tested_on) in features.items():
        neighbours = min(NEIGHBOURS, len(labels))
        classifiers = (
            LINEAR[classifier](fitted_on, labels),
            KNeighborsClassifier(neighbours, algorithm="brute").fit(fitted_on, labels),
        )
        accuracies = (float(each.score(tested_on, wanted)) for each in classifiers)
        yield Accuracy(name, fitted_on.shape[1], *accuracies)


def _logistic(rows: Rows, labels: Rows) -> Any:
    """Fit logistic regression on standardised features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(rows, labels)


def _svm(rows: Rows, labels: Rows) -> Any:
    """Fit a linear support vector machine, one class against all others."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer
    from sklearn.svm import LinearSVC

    size = float(np.sqrt(np.square(rows, dtype=np.float64).sum(axis=1).mean()))
    scale = FunctionTransformer(_divided, kw_args={"size": size or 1.0})

    def fit(penalty: float, rows: Rows, labels: Rows) -> Any:
        machine = LinearSVC(C=penalty, dual=False, tol=1e-3)
        return make_pipeline(scale, machine).fit(rows, labels)

    chosen = np.random.default_rng(0).permutation(len(rows))[:MOST_COMPARED]
    held_out, kept = np.split(chosen, [len(chosen) // HELD_OUT])
    if len(held_out) < 1 or len(np.unique(labels[kept])) < 2:
        return fit(PENALTIES[0], rows, labels)
    scores = [
        fit(penalty, rows[kept], labels[kept]).score(rows[held_out], labels[held_out])
        for penalty in PENALTIES
    ]
    return fit(PENALTIES[int(np.argmax(scores))], rows, labels)


def _divided(rows: Rows, size: float) -> Rows:
    """Bring features to a common scale."""
    return rows / np.float32(size)


LINEAR: dict[str, Callable[[Rows, Rows], Any]] = {"logistic": _logistic, "svm": _svm}
"""Linear classifiers by name: ``fit(rows, labels)``."""
