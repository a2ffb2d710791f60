"""The end of a run: figures beside those of baselines, a picture, the codes in the projector."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from convae.configuration import TrainerConfig
from convae.data.corruption import Corruption, Use
from convae.data.masks import read_mask
from convae.data.pictures import Preprocessing, open_picture, to_floats
from convae.data.splits import Splits, kind, noun, of_pictures, sample
from convae.engine import to_numpy
from convae.errors import UserError, counted
from convae.files import write_bytes
from convae.models.loading import BEST
from convae.models.model import Model
from convae.report.anomaly import Detector, judge, of_whole
from convae.report.baselines import Baselines
from convae.report.evaluation import measure
from convae.report.fixed_images import FixedImages
from convae.report.localisation import localisation
from convae.report.pictures import comparison, png
from convae.report.probe import encode_all
from convae.report.scores import SCORES
from convae.report.spectrum import checkerboard
from convae.report.tensorboard import Board
from convae.report.verdict import advice, table
from convae.report.whole import Whole
from convae.training.progress import Progress

log = logging.getLogger("convae")

SUMMARY = "summary.json"
"""Name of the figures' file in a run's folder."""

DATA = "data"
"""Key of a model's metadata with digests of the data that its run had."""

UNSPOILT = (
    "No epoch was better than the start, which is what is kept; try a lower "
    "optimizer.learning_rate, or more epochs"
)
"""What is said of a run whose best model is the one that it began with."""

POOLED = (
    "Layers pool, and the decoder is told where each value was: the error is not that of the code "
    "alone."
)
"""What is said of a model with switches."""

TRAINING_IMAGES = 2_000
"""Training images, at most, on which the error is measured again at the end."""

KEEP_PICTURES = "--samples_per_plugin images=1000"
"""Pictures are kept of so many steps, by default of ten; with 0 of none, whatever the help says."""


@dataclass(frozen=True)
class Summary:
    """What is measured and shown when a run has ended.

    Parameters
    ----------
    model : Model
        The best model of the run.
    data : Splits
        All images.
    baselines : Baselines
        What the model is compared with.
    quality : dict
        What `convae.report.evaluation.measure_quality` has found on the test images.
    progress : Progress
        Where the run ended.
    corruption : Corruption
        Noise on the input of model and PCA.
    trainer : TrainerConfig
        Batch size, and how much is shown.
    score : str
        How unusual an image is.
    pruned : bool
        Whether a search ended the run early.
    """

    model: Model
    data: Splits
    baselines: Baselines
    quality: dict[str, float]
    progress: Progress
    corruption: Corruption
    trainer: TrainerConfig
    score: str
    pruned: bool = False

    def write(self, directory: Path, board: Board) -> dict[str, float]:
        """Write `SUMMARY` and reconstructions, fill the board, log a report, return the figures."""
        assert self.trainer.batch_size is not None  # chosen when the run began
        detector = Detector.fit(
            self.model, self.data.train, self.data.validation, self.trainer.batch_size
        )
        figures = {
            "best_epoch": float(self.progress.best_epoch),
            "validation_loss": self.progress.best_loss,
            **self._measure(detector),
        }
        if self.pruned:
            figures["pruned"] = float(self.progress.epoch)
        quantile = self.trainer.threshold_quantile
        thresholds = {name: detector.threshold(name, quantile) for name in SCORES}
        known = {"score": self.score, "thresholds": thresholds, DATA: self.progress.data}
        self.model.metadata |= known
        self.model.extras = detector.extras()
        self.model.save(directory / BEST)
        fixed = FixedImages(self.data.test, self.trainer.probe, self.corruption)
        x, given = fixed.images(self.model)
        R = self.model.reconstruct(x if given is None else given)
        picture = comparison(x, given, R, errors=self.data.anomalous is not None)
        write_bytes(directory / "reconstructions.png", png(picture))
        board.figures(self.progress.step, figures)
        if self.trainer.embeddings:
            self._show_embeddings(board)
        write_figures(directory, self.progress.run, figures)
        log.info(f"{self._report(figures)}\n{where_to_look(directory)}")
        return figures

    def _measure(self, detector: Detector) -> dict[str, float]:
        """Measure model and baselines on the test images."""
        model, data, size = self.model, self.data, self.trainer.batch_size
        assert size is not None  # chosen when the run began
        threshold = detector.threshold(self.score, self.trainer.threshold_quantile)
        some = sample(data.train, TRAINING_IMAGES)
        figures = {
            **self.quality,
            "train_mse": measure(model, some, size, Use.TRAINING, self.corruption).mse,
            **self.baselines.errors(data.test, Use.TEST, size, quality=True),
            "threshold": threshold,
            "checkerboard": checkerboard(model),
        }
        if data.anomalous is not None:
            found = detector.scores(data.test, size, SCORES)
            found = {name: of_whole(data.test, values) for name, values in found.items()}
            figures |= judge(found[self.score], data.anomalous, threshold)
            for name, values in found.items():
                figures[f"auroc_{name}"] = judge(values, data.anomalous, threshold)["auroc"]
        if data.masks is not None:
            figures |= localisation(self._marked(detector))
        return figures

    def _marked(self, detector: Detector) -> Iterator[tuple[Any, Any]]:
        """Iterate over the test images' maps and masks; tiles make maps of whole pictures."""
        data, how, size = self.data, self.data.how, self.trainer.batch_size
        assert data.masks is not None
        assert isinstance(how, Preprocessing)
        assert size is not None
        masks = iter(data.masks)
        if how.tiling is None:
            for maps in detector.maps(data.test, size, self.score):
                for unusual in maps:
                    yield unusual, read_mask(next(masks), how, unusual.shape)
            return
        whole = Whole(detector, how.tiling, self.score, size)
        assert data.test.files is not None
        for file in of_pictures(data.test, data.test.files):
            with open_picture(file) as image:
                pixels, _ = how(image)
            yield whole.see(pixels)[1], read_mask(next(masks), how, pixels.shape[1:])

    def _report(self, figures: dict[str, float]) -> str:
        """Put the figures into words."""
        model, data, corruption = self.model, self.data, self.corruption
        noise = f" from {corruption.name} noise of {corruption.amount}" if corruption else ""
        epoch, numbers = figures["best_epoch"], counted(model.code_size, "number")
        labels = {"test": f"this model (epoch {epoch:.0f}, code of {numbers})"}
        labels |= self.baselines.labels()
        if corruption:
            labels["input"] = f"the noisy {kind(data.test.shape)}s themselves"
        example = noun(data.test)
        title = f"On {counted(len(data.test), f'test {example}')} of {data.name}{noise}"
        lines = [f"\n{table(title, labels, figures)}", *self.baselines.notes]
        if model.code_size >= np.prod(model.input_shape):
            lines.append(f"The code is no smaller than the {example}: PCA loses nothing.")
        if model.pools:
            lines.append(POOLED)
        if not epoch:
            lines.append(UNSPOILT)
        # of anomalies the error is meant to be large
        if data.anomalous is None and (tried := advice(labels, figures)):
            lines.append(tried)
        if "auroc" in figures:
            each = ", ".join(f"{name} {figures[f'auroc_{name}']:.4f}" for name in SCORES)
            lines += [
                f"Anomalies, by score={self.score}: AUROC {figures['auroc']:.4f}, "
                f"AUPRC {figures['auprc']:.4f};",
                f"  above the threshold {figures['threshold']:.4g}: {figures['detected']:.1%} of "
                f"the anomalies, {figures['false_alarms']:.1%} of the normal ones",
                f"  AUROC by other scores: {each}",
            ]
        if "pro" in figures:
            lines.append(
                f"Where they are: AUROC of pixels {figures['pixel_auroc']:.4f}, overlap of regions "
                f"(PRO) {figures['pro']:.4f}"
            )
        return "\n".join(lines)

    def _show_embeddings(self, board: Board) -> None:
        """Put the codes of some test images into TensorBoard's Embedding Projector."""
        model, data = self.model, self.data
        count = min(self.trainer.embeddings, len(data.test))
        some = data.test.select(np.arange(count))
        x = np.concatenate(
            [to_numpy(to_floats(p, model.backend, model.dtype)) for p in some.batches(256)]
        )
        labels = some.labels
        known = dict(enumerate(data.classes))
        names = None if labels is None else [known.get(label, label) for label in labels]
        board.embeddings(encode_all(model, some), x, names)


def write_figures(directory: Path, run: str, figures: dict[str, float]) -> None:
    """Write `SUMMARY`; JSON has no infinity, which a PSNR may be: it becomes a string."""
    written = {name: v if isfinite(v) else str(v) for name, v in figures.items()}
    content = {"run": run, **written}
    write_bytes(directory / SUMMARY, json.dumps(content, indent=2).encode())


def where_to_look(directory: Path) -> str:
    """Say where a run is, and how to look at it."""
    place = shlex.quote(str(directory))
    return f"Run: {place}\nLook at it: tensorboard --logdir {place} {KEEP_PICTURES}"


def read_figures(run: Path) -> dict[str, float]:
    """Read the figures of a run's summary; none for a model's file or an unfinished run."""
    file = run / SUMMARY
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text())
        return {name: float(value) for name, value in content.items() if name != "run"}
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{file} is damaged ({error}); remove it to continue without it") from None
