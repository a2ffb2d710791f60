"""TensorBoard: the curves and pictures of a run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

import numpy as np

from convae.engine import Array, to_numpy
from convae.models.autoencoder import Autoencoder
from convae.report.diagnostics import tied_halves
from convae.report.pictures import error_maps, feature_maps, filter_grid, reconstruction_grid

VALIDATION = "loss/validation"
"""Tag of the curve by which runs are compared."""


class Board:
    """The event file of one run. Steps count updates of the parameters.

    Parameters
    ----------
    directory : path
        The run's folder.
    configuration : mapping
        The run's configuration, shown among the hyperparameters of a fresh run.
    after : int
        The step from which a run resumes: later points, of a process that was killed, are hidden.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        configuration: Mapping[str, Any] | None = None,
        after: int = 0,
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter, summary

        purge = after + 1 if after else None
        writer: Any = SummaryWriter(os.fspath(directory), purge_step=purge)
        self._writer = writer
        if configuration and not after:
            values = dict(_flat(configuration))
            # as its add_hparams does, but without the second event file that it opens
            hparams: Any = summary.hparams
            for part in hparams(values, {VALIDATION: None})[:2]:
                writer.file_writer.add_summary(part)

    def __enter__(self) -> Board:
        """Use the board as a context manager."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Flush and close the file."""
        self._writer.close()

    def training(
        self, step: int, loss: float, learning_rate: float, images_per_second: float
    ) -> None:
        """Add points to the training curves."""
        self._writer.add_scalar("loss/train", loss, step)
        self._writer.add_scalar("learning_rate", learning_rate, step)
        self._writer.add_scalar("images_per_second", images_per_second, step)

    def validation(self, step: int, loss: float) -> None:
        """Add a point to the validation curve."""
        self._writer.add_scalar(VALIDATION, loss, step)

    def panels(self, step: int, model: Autoencoder, x: Array, given: Array | None) -> None:
        """Show pictures, histograms and the state of the filters, on a few images.

        x (N, C, H, W), the same test images every time; given, corrupted ones, or None
        """
        seen = x if given is None else given
        codes = model.codes(seen)
        gradients, halves = tied_halves(model, seen, x)
        R = model.decode(codes[-1])
        if model.input_shape[0] in (1, 3):
            rows = [x, *([] if given is None else [given]), R, error_maps(x, R)]
            self._picture("reconstructions", reconstruction_grid(*rows), step)
        self._picture("filters", filter_grid(model.parameters["0.kernel"], 2), step)
        for name, array in model.parameters.items():
            self._histogram(f"parameters/{name}", array, step)
            self._histogram(f"gradients/{name}", gradients[name], step)
        for index, H in enumerate(codes):
            if max(H.shape[2:]) > 1:
                self._picture(f"feature_maps/{index}", feature_maps(H[0]), step)
            self._histogram(f"activations/{index}", H, step)
            self._writer.add_scalar(f"zeros_in_code/{index}", float((H == 0).mean()), step)
        for index, values in halves.items():
            for name, value in values.items():
                self._writer.add_scalar(f"tied_gradient/{index}/{name}", value, step)

    def dead_filters(self, step: int, counts: list[int]) -> None:
        """Add points to the curves of dead filters."""
        for index, count in enumerate(counts):
            self._writer.add_scalar(f"dead_filters/{index}", count, step)

    def embeddings(self, step: int, H: Array, x: Array, labels: Any) -> None:
        """Put codes into the Embedding Projector, with their images and classes.

        H (N, ...); x (N, C, H, W); labels (N,) of int or None
        """
        import torch

        self._writer.add_embedding(
            to_numpy(H).reshape(len(H), -1),
            metadata=None if labels is None else [str(label) for label in labels],
            label_img=torch.tensor(np.ascontiguousarray(to_numpy(x))),
            global_step=step,
            tag="codes",
        )

    def flush(self) -> None:
        """Write pending events to the file."""
        self._writer.flush()

    def _picture(self, tag: str, picture: np.ndarray[Any, Any], step: int) -> None:
        self._writer.add_image(tag, picture, step, dataformats="HWC")

    def _histogram(self, tag: str, array: Array, step: int) -> None:
        with suppress(ValueError):  # there is no histogram of numbers that are not finite
            self._writer.add_histogram(tag, to_numpy(array), step, bins=64)


def _flat(values: Any, prefix: str = "") -> Iterator[tuple[str, str | int | float | bool]]:
    """Iterate over the leaves of a configuration by dotted names, without those that are None."""
    items = enumerate(values) if isinstance(values, (list, tuple)) else values.items()
    for key, value in items:
        if isinstance(value, (dict, list, tuple)):
            yield from _flat(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", value
