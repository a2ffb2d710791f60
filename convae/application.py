"""A whole run: data, model, training, and an honest summary."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np

from convae import checkpoint
from convae.autoencoder import Autoencoder
from convae.build import (
    build_corruption,
    build_model,
    build_optimizer,
    build_schedule,
    describe,
    oversized,
)
from convae.configuration import Config
from convae.corruption import Use
from convae.datasets import load_dataset
from convae.evaluation import mean_image_error, measure, pca_error
from convae.pictures import png, reconstruction_grid
from convae.saved import BEST, load
from convae.splits import Splits
from convae.state import Progress, read_state, restore
from convae.trainer import Probe, fit

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
        The run's folder; ``summary.json`` and ``reconstructions.png`` go here.

    Returns
    -------
    dict
        The figures of the summary.
    """
    corruption = build_corruption(config)
    errors = measure(model, data.test, config.trainer.batch_size, Use.TEST, corruption)
    summary = {
        "best_epoch": float(progress.best_epoch),
        "validation_loss": progress.best_loss,
        "test_loss": errors.loss,
        "test_mse": errors.mse,
        "input_mse": errors.input_mse,
        "mean_image_mse": mean_image_error(data.train, data.test),
        "pca_mse": pca_error(data.train, data.test, model.code_size, corruption),
    }
    checkpoint.write_bytes(directory / "summary.json", json.dumps(summary, indent=2).encode())
    picture = reconstruction_grid(*Probe(data.test, config.trainer.probe, corruption).rows(model))
    checkpoint.write_bytes(directory / "reconstructions.png", png(picture))
    from_what = f" from {corruption.name} noise of {corruption.amount}" if corruption else ""
    noisy = f"  the noisy images themselves  {errors.input_mse:.5f}\n" if corruption else ""
    log.info(
        f"\nMean squared error on {len(data.test):,} test images of {data.name}{from_what}:\n"
        f"  this model (epoch {progress.best_epoch}, code of {model.code_size:,} numbers)"
        f"  {errors.mse:.5f}\n"
        f"  PCA with {model.code_size:,} components{_pca_note(model)}  {summary['pca_mse']:.5f}\n"
        f"  the mean image  {summary['mean_image_mse']:.5f}\n"
        f"{noisy}"
        f"Run: {directory}\n"
        f"Look at it: tensorboard --logdir {directory}"
    )
    return summary


def _pca_note(model: Autoencoder) -> str:
    if model.code_size < np.prod(model.input_shape):
        return ""
    return " (the code is no smaller than the image: PCA loses nothing)"


def train(config: Config, directory: Path) -> dict[str, float]:
    """Do a whole run: data, model, training, summary.

    Parameters
    ----------
    config : Config
        What to do.
    directory : Path
        The run's folder. If the configuration says resume, the state in it is gone on from.

    Returns
    -------
    dict
        The summary's figures; ``validation_loss`` is what sweepers minimise.

    Raises
    ------
    TypeError, ValueError
        If the configuration does not make sense; the message names the key.
    OSError
        If files cannot be read or written.
    RuntimeError
        If a GPU is asked for and there is none.
    FloatingPointError
        If training diverges.
    Interrupted
        If SIGINT or SIGTERM came; the state is saved.
    """
    for name in ("epochs", "batch_size", "log_every", "images_every", "probe", "checkpoint_every"):
        value = getattr(config.trainer, name)
        if value < 1:
            raise ValueError(f"trainer.{name}: {value} is too small; use 1 or more")
    if config.seed < 0:
        raise ValueError(f"seed: {config.seed} is too small; use 0 or more")
    if config.trainer.patience is not None and config.trainer.patience < 1:
        raise ValueError(f"trainer.patience: {config.trainer.patience} is too small; use 1 or more")
    if config.trainer.clip_norm is not None and not config.trainer.clip_norm > 0:
        raise ValueError(f"trainer.clip_norm: {config.trainer.clip_norm} is not a positive number")
    build_corruption(config)  # mistakes in these shall not wait for the data
    build_schedule(config.schedule)
    optimizer = build_optimizer(config.optimizer)
    data = load_dataset(config.dataset, config.seed)
    model = build_model(config, data.train.shape)
    log.info(
        f"{data.name}: {len(data.train):,} training, {len(data.validation):,} validation, "
        f"{len(data.test):,} test images\n{describe(model)}"
    )
    progress = None
    if config.resume is not None:
        progress = restore(*read_state(directory), model, optimizer)
        log.info(f"going on after step {progress.step}, in epoch {progress.epoch + 1}")
    for warning in oversized(model, len(data.train)):
        log.warning(f"warning: {warning}")
    progress = fit(model, optimizer, data, config, directory, progress)
    best = load(directory / BEST, device=model.device)
    return summarise(best, data, progress, config, directory)
