"""What came of a run: honest figures beside two baselines, a picture, and the codes to look at."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np

from convae import checkpoint
from convae.anomaly import judge, score
from convae.autoencoder import Autoencoder
from convae.build import build_corruption
from convae.configuration import Config
from convae.corruption import Corruption, Use
from convae.evaluation import mean_image_error, measure, pca_error
from convae.pictures import error_maps, png, reconstruction_grid
from convae.probe import encode_all
from convae.splits import Splits, to_floats
from convae.state import Progress
from convae.tensorboard import Board
from convae.trainer import Probe

log = logging.getLogger("convae")


def summarise(
    model: Autoencoder, data: Splits, progress: Progress, config: Config, directory: Path
) -> dict[str, float]:
    """Compare the best model with two baselines on the test images; keep figures and a picture.

    Parameters
    ----------
    model : Autoencoder
        The best model of the run.
    data : Splits
        All images.
    progress : Progress
        Where the run ended.
    config : Config
        The run's configuration.
    directory : Path
        The run's folder; ``summary.json``, ``reconstructions.png`` and the projector's files go
        here.

    Returns
    -------
    dict
        The figures of the summary.
    """
    corruption = build_corruption(config)
    summary = {
        "best_epoch": float(progress.best_epoch),
        "validation_loss": progress.best_loss,
        **figures(model, data, config, corruption),
    }
    rows = Probe(data.test, config.trainer.probe, corruption).rows(model)
    if data.anomalous is not None:
        rows.append(error_maps(rows[0], rows[-1]))
    checkpoint.write_bytes(directory / "reconstructions.png", png(reconstruction_grid(*rows)))
    if config.trainer.embeddings:
        show_embeddings(model, data, progress.step, config.trainer.embeddings, directory)
    checkpoint.write_bytes(directory / "summary.json", json.dumps(summary, indent=2).encode())
    log.info(
        f"{report(summary, model, data, corruption)}\n"
        f"Run: {directory}\n"
        f"Look at it: tensorboard --logdir {directory}"
    )
    return summary


def figures(
    model: Autoencoder, data: Splits, config: Config, corruption: Corruption
) -> dict[str, float]:
    """Measure a model and its baselines.

    Parameters
    ----------
    model : Autoencoder
        The model.
    data : Splits
        All images.
    config : Config
        The run's configuration.
    corruption : Corruption
        Noise on what model and PCA are given.

    Returns
    -------
    dict
        Errors on the test images; the threshold, a quantile of the validation images' errors; and
        where some classes only were trained on, how well errors tell the others.
    """
    size = config.trainer.batch_size
    errors = measure(model, data.test, size, Use.TEST, corruption)
    quantile = config.trainer.threshold_quantile
    threshold = float(np.quantile(score(model, data.validation, size), quantile))
    found = {
        "test_loss": errors.loss,
        "test_mse": errors.mse,
        "input_mse": errors.input_mse,
        "mean_image_mse": mean_image_error(data.train, data.test),
        "pca_mse": pca_error(data.train, data.test, model.code_size, corruption),
        "threshold": threshold,
    }
    if data.anomalous is not None:
        found |= judge(score(model, data.test, size), data.anomalous, threshold)
    return found


def report(
    summary: dict[str, float], model: Autoencoder, data: Splits, corruption: Corruption
) -> str:
    """Put a summary into words.

    Parameters
    ----------
    summary : dict
        The figures.
    model : Autoencoder
        The best model of the run.
    data : Splits
        All images.
    corruption : Corruption
        Noise on what model and PCA were given.

    Returns
    -------
    str
        Some lines.
    """
    noise = f" from {corruption.name} noise of {corruption.amount}" if corruption else ""
    size = f"{model.code_size:,}"
    loses = model.code_size < np.prod(model.input_shape)
    note = "" if loses else " (the code is no smaller than the image: PCA loses nothing)"
    lines = [
        f"\nMean squared error on {len(data.test):,} test images of {data.name}{noise}:",
        f"  this model (epoch {summary['best_epoch']:.0f}, code of {size} numbers)"
        f"  {summary['test_mse']:.5f}",
        f"  PCA with {size} components{note}  {summary['pca_mse']:.5f}",
        f"  the mean image  {summary['mean_image_mse']:.5f}",
    ]
    if corruption:
        lines.append(f"  the noisy images themselves  {summary['input_mse']:.5f}")
    if "auroc" in summary:
        lines += [
            f"Anomalies, by reconstruction error: AUROC {summary['auroc']:.4f}, "
            f"AUPRC {summary['auprc']:.4f};",
            f"  beyond the threshold {summary['threshold']:.4g}: {summary['detected']:.1%} of the "
            f"anomalies, {summary['false_alarms']:.1%} of the normal images",
        ]
    return "\n".join(lines)


def show_embeddings(
    model: Autoencoder, data: Splits, step: int, count: int, directory: Path
) -> None:
    """Put the codes of test images into TensorBoard's Embedding Projector.

    Parameters
    ----------
    model : Autoencoder
        The best model of the run.
    data : Splits
        Of which the first test images are taken.
    step : int
        Updates done so far.
    count : int
        How many images, at most.
    directory : Path
        The run's folder.
    """
    some = data.test.select(np.arange(min(count, len(data.test))))
    x = np.concatenate([to_floats(pixels, np, model.dtype) for pixels in some.batches(256)])
    with Board(directory / "projector", after=step) as board:
        board.embeddings(step, encode_all(model, some), x, some.labels)
