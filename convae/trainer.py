"""Training: epochs, validation, the best model kept, and an honest summary."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from convae import checkpoint
from convae.autoencoder import Autoencoder
from convae.build import build_model, build_optimizer, describe, oversized
from convae.configuration import Config, TrainerConfig
from convae.datasets import load_dataset
from convae.evaluation import mean_errors, mean_image_error, pca_error
from convae.optimizers import Optimizer
from convae.pictures import png, reconstruction_grid
from convae.saved import BEST, LAST, load
from convae.splits import Splits, to_floats
from convae.step import TrainingStep
from convae.tensorboard import Board

log = logging.getLogger("convae")


@dataclass
class Progress:
    """Where a run stands.

    Parameters
    ----------
    epoch, step : int
        Epochs and updates done.
    best_epoch : int
        The epoch with the lowest validation loss so far.
    best_loss : float
        That loss.
    """

    epoch: int = 0
    step: int = 0
    best_epoch: int = 0
    best_loss: float = inf


def fit(
    model: Autoencoder,
    optimizer: Optimizer,
    data: Splits,
    config: TrainerConfig,
    directory: Path,
    seed: int,
) -> Progress:
    """Train, validate after every epoch, and keep the best and the last model.

    Parameters
    ----------
    model : Autoencoder
        Trained in place.
    optimizer : Optimizer
        A fresh one.
    data : Splits
        Training and validation images, and test images to look at.
    config : TrainerConfig
        How long, and what to show.
    directory : Path
        The run's folder: models and TensorBoard's events go here.
    seed : int
        Seed of the order of the images.

    Returns
    -------
    Progress
        Where the run ended.

    Raises
    ------
    FloatingPointError
        If the loss is no longer finite; the models saved before it stay.
    """
    step = TrainingStep(model, optimizer)
    rng = np.random.default_rng([seed, 2])
    probe = to_floats(next(data.test.batches(config.probe)), model.xp, model.dtype)
    progress = Progress()
    steps_per_epoch = -(-len(data.train) // config.batch_size)
    with (
        Board(directory) as board,
        tqdm(total=config.epochs * steps_per_epoch, unit=" steps", disable=None) as bar,
        logging_redirect_tqdm([logging.getLogger()]),
    ):
        board.pictures(0, model, probe)
        for epoch in range(1, config.epochs + 1):
            bar.set_description(f"epoch {epoch}/{config.epochs}")
            whole, recent = Window(), Window()
            for pixels in data.train.batches(config.batch_size, rng):
                loss = step(to_floats(pixels, model.xp, model.dtype))
                progress.step += 1
                whole.add(loss, len(pixels))
                recent.add(loss, len(pixels))
                if progress.step % config.log_every == 0:
                    mean, speed = recent.mean(), recent.images_per_second()
                    recent = Window()
                    board.training(progress.step, mean, optimizer.learning_rate, speed)
                    bar.set_postfix_str(f"loss {mean:.5f}, {speed:,.0f} images/s")
                bar.update()
            train_loss, speed = whole.mean(), whole.images_per_second()
            if not np.isfinite(train_loss):
                raise FloatingPointError(
                    f"the loss became {train_loss} in epoch {epoch}; lower "
                    f"optimizer.learning_rate (it is {optimizer.learning_rate:g})"
                )
            validation_loss, _ = mean_errors(model, data.validation, config.batch_size)
            board.validation(progress.step, validation_loss)
            progress.epoch = epoch
            if validation_loss < progress.best_loss:
                progress.best_loss, progress.best_epoch = validation_loss, epoch
                model.save(directory / BEST)
            model.save(directory / LAST)
            if epoch % config.images_every == 0 or epoch == config.epochs:
                board.pictures(progress.step, model, probe)
            log.info(
                f"epoch {epoch:>{len(str(config.epochs))}}/{config.epochs}  "
                f"train {train_loss:.5f}  validation {validation_loss:.5f}  "
                f"{speed:,.0f} images/s{'  best' if progress.best_epoch == epoch else ''}"
            )
    return progress


class Window:
    """A running mean of the loss over a stretch of training, and its speed."""

    def __init__(self) -> None:
        self.total: Any = 0.0
        self.images = 0
        self.start = time.perf_counter()

    def add(self, loss: Any, images: int) -> None:
        """Count one step; the loss stays on its device."""
        self.total = self.total + loss * images
        self.images += images

    def mean(self) -> float:
        """Mean loss over the images, waiting for the device."""
        return float(self.total) / self.images

    def images_per_second(self) -> float:
        """Images divided by the time since the start, by the wall clock."""
        return self.images / (time.perf_counter() - self.start)


def summarise(
    model: Autoencoder, data: Splits, progress: Progress, config: TrainerConfig, directory: Path
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
    config : TrainerConfig
        For the batch size and the probe.
    directory : Path
        The run's folder; ``summary.json`` and ``reconstructions.png`` go here.

    Returns
    -------
    dict
        The figures of the summary.
    """
    test_loss, test_mse = mean_errors(model, data.test, config.batch_size)
    summary = {
        "best_epoch": float(progress.best_epoch),
        "validation_loss": progress.best_loss,
        "test_loss": test_loss,
        "test_mse": test_mse,
        "mean_image_mse": mean_image_error(data.train, data.test),
        "pca_mse": pca_error(data.train, data.test, model.code_size),
    }
    checkpoint.write_bytes(directory / "summary.json", json.dumps(summary, indent=2).encode())
    probe = to_floats(next(data.test.batches(config.probe)), model.xp, model.dtype)
    picture = reconstruction_grid(probe, model.reconstruct(probe))
    checkpoint.write_bytes(directory / "reconstructions.png", png(picture))
    log.info(
        f"\nMean squared error on {len(data.test):,} test images of {data.name}:\n"
        f"  this model (epoch {progress.best_epoch}, code of {model.code_size:,} numbers)"
        f"  {test_mse:.5f}\n"
        f"  PCA with {model.code_size:,} components{_pca_note(model)}  {summary['pca_mse']:.5f}\n"
        f"  the mean image  {summary['mean_image_mse']:.5f}\n"
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
        The run's folder.

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
    """
    for name in ("epochs", "batch_size", "log_every", "images_every", "probe"):
        value = getattr(config.trainer, name)
        if value < 1:
            raise ValueError(f"trainer.{name}: {value} is too small; use 1 or more")
    if config.seed < 0:
        raise ValueError(f"seed: {config.seed} is too small; use 0 or more")
    optimizer = build_optimizer(config.optimizer)
    data = load_dataset(config.dataset, config.seed)
    model = build_model(config, data.train.shape)
    log.info(
        f"{data.name}: {len(data.train):,} training, {len(data.validation):,} validation, "
        f"{len(data.test):,} test images\n{describe(model)}"
    )
    for warning in oversized(model, len(data.train)):
        log.warning(f"warning: {warning}")
    progress = fit(model, optimizer, data, config.trainer, directory, config.seed)
    best = load(directory / BEST, device=model.device)
    return summarise(best, data, progress, config.trainer, directory)
