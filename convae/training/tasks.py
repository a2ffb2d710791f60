"""What a model is trained for: the target of a batch, its validation, what is shown of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from convae.data.corruption import Corruption, Use
from convae.data.splits import Labels, Order, Split, Splits
from convae.engine import Array, array_module
from convae.errors import UserError
from convae.models.classifier import Classifier
from convae.processes import Share
from convae.report.classification import classify
from convae.report.evaluation import measure
from convae.report.fixed_images import FixedImages
from convae.report.tensorboard import Board
from convae.training.step import TrainingStep


class Task(Protocol):
    """What a model is trained for."""

    def batch(self, x: Array, positions: Order, step: int, share: Share) -> tuple[Array, Array]:
        """Return what a training step is given of some images (N, C, *size): input and target.

        `positions` are theirs in the training split, `share` which part of the batch they are.
        """

    def validate(
        self, step: TrainingStep, split: Split, batch_size: int
    ) -> tuple[float, dict[str, float]]:
        """Measure the loss on validation images, without penalties, and further figures.

        The processes of the step's group share them.
        """

    def show(self, board: Board, at: int, step: TrainingStep) -> None:
        """Put pictures and histograms on the board."""


@dataclass(frozen=True)
class Reconstruction:
    """Images are to be made again, of noisy ones perhaps.

    Parameters
    ----------
    corruption : Corruption
        Noise on the model's input.
    fixed_images : FixedImages
        The test images that the board shows.
    """

    corruption: Corruption
    fixed_images: FixedImages

    def batch(self, x: Array, positions: Order, step: int, share: Share) -> tuple[Array, Array]:
        """See `Task`."""
        return self.corruption(x, Use.TRAINING, step, share), x

    def validate(
        self, step: TrainingStep, split: Split, batch_size: int
    ) -> tuple[float, dict[str, float]]:
        """See `Task`."""
        how = (batch_size, Use.VALIDATION, self.corruption, step.evaluate, step.group)
        return measure(step.model, split, *how).loss, {}

    def show(self, board: Board, at: int, step: TrainingStep) -> None:
        """See `Task`."""
        x, given = self.fixed_images.images(step.model)
        board.reconstructions(at, step.model, x, given)


@dataclass(frozen=True)
class Classification:
    """Images are to be told apart.

    Parameters
    ----------
    labels : (N,) ndarray of int
        Classes of the training images.
    corruption : Corruption
        Noise on training images.
    fixed_images : FixedImages
        The test images of which the board shows activations.
    """

    labels: Labels
    corruption: Corruption
    fixed_images: FixedImages

    def batch(self, x: Array, positions: Order, step: int, share: Share) -> tuple[Array, Array]:
        """See `Task`."""
        noisy = self.corruption(x, Use.TRAINING, step, share)
        return noisy, array_module(x).asarray(self.labels[positions])

    def validate(
        self, step: TrainingStep, split: Split, batch_size: int
    ) -> tuple[float, dict[str, float]]:
        """See `Task`."""
        assert isinstance(step.model, Classifier)
        found = classify(step.model, split, batch_size, step.group)
        return found.loss, {"accuracy": found.accuracy}

    def show(self, board: Board, at: int, step: TrainingStep) -> None:
        """See `Task`."""
        x, given = self.fixed_images.images(step.model)
        board.units(at, step.model, x if given is None else given)


def classes_of(data: Splits) -> int:
    """Count the classes of labelled data; a `UserError` says that there are none."""
    labels = [split.labels for split in (data.train, data.validation, data.test)]
    if any(some is None for some in labels):
        raise UserError(f"task: classify needs labels, and {data.name} has none")
    if data.anomalous is not None:
        raise UserError("task: classify needs all classes; leave dataset.normal out")
    most = max(int(np.max(some)) for some in labels if some is not None) + 1
    return max(most, len(data.classes))
