"""TensorBoard: the curves and pictures of a run."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from convae.engine import Array, to_numpy
from convae.files import write_bytes
from convae.models.autoencoder import Autoencoder
from convae.models.model import Model
from convae.models.rbm import RBM
from convae.report.diagnostics import tied_halves
from convae.report.pictures import comparison, feature_maps, filter_grid, grid, png
from convae.report.views import Limits, pictures_of


class _Nowhere:
    """An event file that takes everything and keeps nothing."""

    def __getattr__(self, name: str) -> _Nowhere:
        return self

    def __call__(self, *arguments: object, **named: object) -> None:
        """Do nothing."""


class Board:
    """The event file of one run. Steps count updates of the parameters.

    TensorBoard sorts cards by their tags: losses come first, then reconstructions.

    Parameters
    ----------
    directory : path
        The run's folder.
    after : int
        The step from which a run resumes: later points are hidden, those of a process that was
        killed and the figures of an earlier end.
    is_silent : bool
        Whether nothing is written: of several processes one writes for all.
    """

    def __init__(
        self, directory: str | os.PathLike[str], after: int = 0, is_silent: bool = False
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = after + 1 if after else None
        self._writer: Any = (
            _Nowhere() if is_silent else SummaryWriter(os.fspath(directory), purge_step=purge)
        )
        self._directory = Path(directory)

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

    def configuration(self, text: str) -> None:
        """Show a fresh run's configuration, in YAML, as text."""
        from tensorboard.plugins.text.summary_v2 import text_pb

        # torch's add_text would add to the tag
        self._writer.file_writer.add_summary(text_pb("configuration", f"```yaml\n{text}```"))

    def hyperparameters(self, values: Mapping[str, float | str]) -> None:
        """Make a fresh run a row of the HParams table, with what tells it from other runs.

        TensorBoard finds the columns itself: a list of them, as torch's add_hparams writes it,
        would be taken from one run and hold for all.
        """
        from torch.utils.tensorboard import summary

        hparams: Any = summary.hparams
        _, start, _ = hparams(dict(values), {})
        self._writer.file_writer.add_summary(start)

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Add the figures of the run's end at `step`, the last one.

        They come one step later, so that a run that is resumed from there hides them.
        """
        for name, value in values.items():
            self._writer.add_scalar(f"summary/{name}", value, step + 1)

    def training(
        self, step: int, loss: float, learning_rate: float, images_per_second: float
    ) -> None:
        """Add points to the training curves."""
        self._writer.add_scalar("loss/train", loss, step)
        self._writer.add_scalar("training/learning_rate", learning_rate, step)
        self._writer.add_scalar("training/images_per_second", images_per_second, step)

    def validation(self, step: int, loss: float, figures: Mapping[str, float]) -> None:
        """Add points to the validation curves: of the loss, and of further figures by name."""
        self._writer.add_scalar("loss/validation", loss, step)
        for name, value in figures.items():
            self._writer.add_scalar(f"validation/{name}", value, step)

    def quantities(self, step: int, kind: str, values: Mapping[str, float], part: str) -> None:
        """Add points to the curves of what a kind of model measures on some images of a part."""
        for name, value in values.items():
            self._writer.add_scalar(f"{kind}/{name}/{part}", value, step)

    def reconstructions(self, step: int, model: Model, x: Array, given: Array | None) -> None:
        """Show what a model makes of a few images, and all that `units` shows.

        x (N, C, *size), the same test images every time; given, corrupted ones, or None
        """
        seen = x if given is None else given
        R = model.reconstruct(seen)
        self._picture("reconstructions", comparison(x, given, R, errors=True), step)
        if isinstance(model, RBM):
            samples = model.samples(len(x))
            self._picture(
                "samples", grid(pictures_of(Limits(samples)(samples)), columns=len(x)), step
            )
        halves: Mapping[int, Mapping[str, float]] = {}
        gradients: Mapping[str, Array] = model.gradients
        if isinstance(model, Autoencoder):
            gradients, halves = tied_halves(model, seen, x)
        self.units(step, model, seen, gradients)
        for index, values in halves.items():
            for name, value in values.items():
                self._writer.add_scalar(f"tied_gradient/{index}/{name}", value, step)

    def units(
        self, step: int, model: Model, x: Array, gradients: Mapping[str, Array] | None = None
    ) -> None:
        """Show filters, feature maps and histograms, on a few images x (N, C, *size).

        The gradients are those of the last batch, unless others are given.
        """
        codes = model.codes(x)
        gradients = model.gradients if gradients is None else gradients
        axes = len(model.input_shape) - 1
        self._picture("weights/filters", filter_grid(model.parameters["0.kernel"], axes), step)
        for name, array in model.parameters.items():
            self._histogram(f"weights/parameters/{name}", array, step)
            self._histogram(f"weights/gradients/{name}", gradients[name], step)
        for index, H in enumerate(codes):
            if max(H.shape[2:]) > 1:
                self._picture(f"units/feature_maps/{index}", feature_maps(H[0]), step)
            self._histogram(f"units/activations/{index}", H, step)
            self._writer.add_scalar(f"units/zeros_in_code/{index}", float((H == 0).mean()), step)

    def confusion(self, step: int, picture: bytes) -> None:
        """Show a table of confusions, a PNG."""
        with Image.open(io.BytesIO(picture)) as image:
            self._picture("confusion", np.asarray(image.convert("RGB")), step)

    def dead_filters(self, step: int, counts: list[int]) -> None:
        """Add points to the curves of dead filters."""
        for index, count in enumerate(counts):
            self._writer.add_scalar(f"units/dead_filters/{index}", count, step)

    def embeddings(self, H: Array, x: Array, labels: Any) -> None:
        """Put codes into the Embedding Projector, with their images and classes.

        Earlier ones are replaced. H (N, ...); x (N, C, *size); labels (N,) of int or None
        """
        from tensorboard.plugins.projector import ProjectorConfig

        config, folder = ProjectorConfig(), "projector"
        embedding = config.embeddings.add(tensor_name="codes", tensor_path=f"{folder}/codes.tsv")
        codes = to_numpy(H).reshape(len(H), -1)
        rows = ("\t".join(f"{number:.6g}" for number in code) for code in codes)
        write_bytes(self._directory / folder / "codes.tsv", "\n".join(rows).encode())
        embedding.sprite.image_path = f"{folder}/images.png"
        pictures = pictures_of(Limits(x)(x))
        embedding.sprite.single_image_dim.extend([pictures.shape[3], pictures.shape[2]])
        columns = int(np.ceil(np.sqrt(len(pictures))))
        blank = columns**2 - len(pictures)  # as many rows as columns are expected
        pictures = np.pad(pictures, [(0, blank), (0, 0), (0, 0), (0, 0)])
        images = grid(pictures, columns, enlarge=False, gap=0)
        write_bytes(self._directory / folder / "images.png", png(images))
        if labels is not None:
            embedding.metadata_path = f"{folder}/classes.tsv"
            classes = "\n".join(str(label) for label in labels)
            write_bytes(self._directory / embedding.metadata_path, classes.encode())
        write_bytes(self._directory / "projector_config.pbtxt", str(config).encode())

    def flush(self) -> None:
        """Write pending events to the file."""
        self._writer.flush()

    def _picture(self, tag: str, picture: np.ndarray[Any, Any], step: int) -> None:
        self._writer.add_image(tag, picture, step, dataformats="HWC")

    def _histogram(self, tag: str, array: Array, step: int) -> None:
        with suppress(ValueError):  # there is no histogram of numbers that are not finite
            self._writer.add_histogram(tag, to_numpy(array), step, bins=64)
