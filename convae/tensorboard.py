"""What TensorBoard shows of a run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

import numpy as np

from convae.autoencoder import Autoencoder
from convae.diagnostics import codes, tied_halves
from convae.engine import Array, to_numpy
from convae.pictures import error_maps, feature_maps, filter_grid, reconstruction_grid

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
        The step from which a resumed run goes on: points beyond it, of a process that was killed,
        are no longer shown.
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
            # what its add_hparams does, which would open a second event file for it
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
        """Write out what is pending and close the file."""
        self._writer.close()

    def training(
        self, step: int, loss: float, learning_rate: float, images_per_second: float
    ) -> None:
        """Add points to the training curves.

        Parameters
        ----------
        step : int
            Updates done so far.
        loss : float
            Mean loss since the last points, penalties included.
        learning_rate : float
            Learning rate per step.
        images_per_second : float
            Training images since the last points, by the wall clock.
        """
        self._writer.add_scalar("loss/train", loss, step)
        self._writer.add_scalar("learning_rate", learning_rate, step)
        self._writer.add_scalar("images_per_second", images_per_second, step)

    def validation(self, step: int, loss: float) -> None:
        """Add a point to the validation curve.

        Parameters
        ----------
        step : int
            Updates done so far.
        loss : float
            Mean loss over the validation images, without penalties.
        """
        self._writer.add_scalar(VALIDATION, loss, step)

    def panels(self, step: int, model: Autoencoder, x: Array, given: Array | None) -> None:
        """Show a model through a few images: pictures, histograms, and the state of its filters.

        Parameters
        ----------
        step : int
            Updates done so far.
        model : Autoencoder
            The model as it is now.
        x : (N, C, H, W) ndarray
            The same test images every time.
        given : (N, C, H, W) ndarray or None
            Corrupted ones that the model is given in their place, if any.
        """
        seen = x if given is None else given
        found = codes(model, seen)
        gradients, halves = tied_halves(model, seen, x)
        R = model.decode(found[-1])
        if model.input_shape[0] in (1, 3):
            rows = [x, *([] if given is None else [given]), R, error_maps(x, R)]
            self._picture("reconstructions", reconstruction_grid(*rows), step)
        self._picture("filters", filter_grid(model.parameters["0.kernel"], 2), step)
        for name, array in model.parameters.items():
            self._histogram(f"parameters/{name}", array, step)
            self._histogram(f"gradients/{name}", gradients[name], step)
        for index, H in enumerate(found):
            if max(H.shape[2:]) > 1:
                self._picture(f"feature_maps/{index}", feature_maps(H[0]), step)
            self._histogram(f"activations/{index}", H, step)
            self._writer.add_scalar(f"zeros_in_code/{index}", float((H == 0).mean()), step)
        for index, values in halves.items():
            for name, value in values.items():
                self._writer.add_scalar(f"tied_gradient/{index}/{name}", value, step)

    def dead_filters(self, step: int, counts: list[int]) -> None:
        """Add points to the curves of dead filters.

        Parameters
        ----------
        step : int
            Updates done so far.
        counts : list of int
            How many there are in each layer.
        """
        for index, count in enumerate(counts):
            self._writer.add_scalar(f"dead_filters/{index}", count, step)

    def embeddings(self, step: int, H: Array, x: Array, labels: Any) -> None:
        """Put codes into the Embedding Projector, with their images and classes.

        Parameters
        ----------
        step : int
            Updates done so far.
        H : (N, ...) ndarray
            Codes.
        x : (N, C, H, W) ndarray
            The images that they stand for.
        labels : (N,) ndarray of int or None
            Their classes, where there are any.
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
        """Write out what is pending."""
        self._writer.flush()

    def _picture(self, tag: str, picture: np.ndarray[Any, Any], step: int) -> None:
        self._writer.add_image(tag, picture, step, dataformats="HWC")

    def _histogram(self, tag: str, array: Array, step: int) -> None:
        with suppress(ValueError):  # there is none of numbers that are not finite, or nearly so
            self._writer.add_histogram(tag, to_numpy(array), step, bins=64)


def _flat(values: Any, prefix: str = "") -> Iterator[tuple[str, str | int | float | bool]]:
    """Walk through the leaves of a configuration, by dotted names; what is not set is left out."""
    items = enumerate(values) if isinstance(values, (list, tuple)) else values.items()
    for key, value in items:
        if isinstance(value, (dict, list, tuple)):
            yield from _flat(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", value
