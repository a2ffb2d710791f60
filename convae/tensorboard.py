"""What TensorBoard shows of a run."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any

import numpy as np

from convae.autoencoder import Autoencoder
from convae.engine import Array
from convae.pictures import filter_grid, reconstruction_grid


class Board:
    """The event file of one run. Steps count updates of the parameters.

    Parameters
    ----------
    directory : path
        The run's folder.
    after : int
        The step from which a resumed run goes on: points beyond it, of a process that was killed,
        are no longer shown.
    """

    def __init__(self, directory: str | os.PathLike[str], after: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = after + 1 if after else None
        self._writer: Any = SummaryWriter(os.fspath(directory), purge_step=purge)

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
            Mean loss since the last points.
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
            Mean loss over the validation images.
        """
        self._writer.add_scalar("loss/validation", loss, step)

    def pictures(self, step: int, model: Autoencoder, rows: list[Array]) -> None:
        """Show reconstructions of the probe images, and the first layer's filters.

        Parameters
        ----------
        step : int
            Updates done so far.
        model : Autoencoder
            The model as it is now.
        rows : list of (N, C, H, W) ndarray
            Originals, corrupted ones if there are any, and reconstructions.
        """
        axes = model.layers[0].geometry.axes
        kernel = model.parameters["0.kernel"]
        self._picture("reconstructions", reconstruction_grid(*rows), step)
        self._picture("filters", filter_grid(kernel, axes), step)

    def flush(self) -> None:
        """Write out what is pending."""
        self._writer.flush()

    def _picture(self, tag: str, picture: np.ndarray[Any, Any], step: int) -> None:
        self._writer.add_image(tag, picture, step, dataformats="HWC")
