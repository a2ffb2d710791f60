"""How well a classifier does: its loss, its accuracy and what it takes for what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convae.data.pictures import to_floats
from convae.data.splits import Split, Splits, own_batches, sample
from convae.engine import to_numpy
from convae.models.classifier import Classifier
from convae.processes import ALONE, Group
from convae.report.pictures import figure_png
from convae.report.probe import vectors

LIMIT = 10_000
"""Training images, at most, from which the linear classifier learns that a model is beside."""

MOST_NUMBERS = 30
"""Classes, at most, of whose confusions each is written into the picture."""


@dataclass(frozen=True)
class Classified:
    """What a classifier makes of labelled images.

    Parameters
    ----------
    loss : float
        The cross-entropy, a mean over the images, in nats.
    confusion : (classes, classes) ndarray of int
        How many images of each class, a row, were taken for each, a column.
    """

    loss: float
    confusion: np.ndarray[Any, np.dtype[np.int64]]

    @property
    def accuracy(self) -> float:
        """The fraction that is classified correctly."""
        return float(np.trace(self.confusion) / self.confusion.sum())

    def of_classes(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return the same for each class; NaN where there are no images of it."""
        count = self.confusion.sum(axis=1)
        right = np.diag(self.confusion).astype(float)
        out = np.full(len(count), np.nan)
        np.divide(right, count, out=out, where=count > 0)
        return out


def classify(model: Classifier, split: Split, batch_size: int, group: Group = ALONE) -> Classified:
    """Classify all images of a labelled split; the processes of a group share each batch."""
    assert split.labels is not None
    confusion = np.zeros((model.classes, model.classes), np.int64)
    loss: Any = 0.0  # on the device, which is not waited for
    for batch in own_batches(split, batch_size, group):
        x, count = to_floats(batch.pixels, model.backend, model.dtype), batch.share.count
        labels = split.labels[batch.positions]
        J, P = model.evaluate(x, model.xp.asarray(labels))
        loss = loss + J * count
        np.add.at(confusion, (labels[:count], to_numpy(P.argmax(axis=1))[:count]), 1)
    loss, *counts = group.sum([loss, *confusion.ravel()])
    confusion = np.array(counts, np.int64).reshape(confusion.shape)
    return Classified(loss / len(split), confusion)


def baselines(data: Splits) -> dict[str, float]:
    """Measure, on the test images, what classifies them without a network.

    ``linear`` is logistic regression on pixels, of at most `LIMIT` training images; ``largest``
    always answers with the most frequent class.
    """
    from sklearn.linear_model import LogisticRegression

    train, test = sample(data.train, LIMIT), data.test
    assert train.labels is not None
    assert test.labels is not None
    largest = int(np.bincount(train.labels).argmax())
    found = {"largest": float((test.labels == largest).mean())}
    if len(np.unique(train.labels)) > 1:
        regression = LogisticRegression(max_iter=200, tol=1e-3).fit(vectors(train), train.labels)
        found["linear"] = float(regression.score(vectors(test), test.labels))
    return found


def confusion_picture(found: Classified, classes: Sequence[str]) -> bytes:
    """Draw a table of confusions as a PNG; colours are parts of a row."""
    count = len(found.confusion)
    names = [*classes, *map(str, range(len(classes), count))]
    parts = found.confusion / np.maximum(found.confusion.sum(axis=1, keepdims=True), 1)

    def draw(axes: Any) -> None:
        axes.imshow(parts, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(count), names, rotation=90)
        axes.set_yticks(range(count), names)
        axes.set_xlabel("taken for")
        axes.set_ylabel("class")
        axes.set_title(f"accuracy {found.accuracy:.2%}")
        for row, column in np.argwhere(found.confusion) if count <= MOST_NUMBERS else ():
            colour = "white" if parts[row, column] > 0.5 else "black"
            text = f"{found.confusion[row, column]:,}"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)

    side = min(4 + 0.4 * count, 20)
    return figure_png(draw, (side, side))
