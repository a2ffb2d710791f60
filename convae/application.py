"""A whole run: data, model, training, and an honest summary."""

from __future__ import annotations

import dataclasses
import json
import logging
from math import inf
from pathlib import Path

import numpy as np

from convae import checkpoint
from convae.anomaly import judge, score
from convae.autoencoder import Autoencoder
from convae.build import (
    build_corruption,
    build_model,
    build_optimizer,
    build_penalty,
    build_schedule,
    describe,
    oversized,
)
from convae.configuration import Config
from convae.corruption import Use
from convae.datasets import load_dataset
from convae.diagnostics import self_check
from convae.engine import to_numpy
from convae.evaluation import mean_image_error, measure, pca_error
from convae.learning_rate import find_learning_rate
from convae.optimizers import Optimizer
from convae.pictures import png, reconstruction_grid
from convae.pretraining import pretrain
from convae.saved import BEST, load
from convae.splits import Splits, to_floats
from convae.state import Progress, read_state, restore, save_state
from convae.tensorboard import Board
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
    errors_of_validation = score(model, data.validation, config.trainer.batch_size)
    threshold = float(np.quantile(errors_of_validation, config.trainer.threshold_quantile))
    summary["threshold"] = threshold
    if data.anomalous is not None:
        scores = score(model, data.test, config.trainer.batch_size)
        summary |= judge(scores, data.anomalous, threshold)
    if config.trainer.embeddings:
        show_embeddings(model, data, progress.step, config.trainer.embeddings, directory)
    picture = reconstruction_grid(*Probe(data.test, config.trainer.probe, corruption).rows(model))
    checkpoint.write_bytes(directory / "reconstructions.png", png(picture))
    checkpoint.write_bytes(directory / "summary.json", json.dumps(summary, indent=2).encode())
    from_what = f" from {corruption.name} noise of {corruption.amount}" if corruption else ""
    noisy = f"  the noisy images themselves  {errors.input_mse:.5f}\n" if corruption else ""
    anomalies = ""
    if data.anomalous is not None:
        anomalies = (
            f"Anomalies, by reconstruction error: AUROC {summary['auroc']:.4f}, AUPRC "
            f"{summary['auprc']:.4f}; beyond the threshold {threshold:.4g}: "
            f"{summary['detected']:.1%} of the anomalies, "
            f"{summary['false_alarms']:.1%} of the normal images\n"
        )
    log.info(
        f"\nMean squared error on {len(data.test):,} test images of {data.name}{from_what}:\n"
        f"  this model (epoch {progress.best_epoch}, code of {model.code_size:,} numbers)"
        f"  {errors.mse:.5f}\n"
        f"  PCA with {model.code_size:,} components{_pca_note(model)}  {summary['pca_mse']:.5f}\n"
        f"  the mean image  {summary['mean_image_mse']:.5f}\n"
        f"{noisy}{anomalies}"
        f"Run: {directory}\n"
        f"Look at it: tensorboard --logdir {directory}"
    )
    return summary


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
    batches = [to_floats(pixels, model.xp, model.dtype) for pixels in some.batches(256)]
    H = np.concatenate([to_numpy(model.encode(x)) for x in batches])
    x = np.concatenate([to_numpy(x) for x in batches])
    with Board(directory / "projector", after=step) as board:
        board.embeddings(step, H, x, some.labels)


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
    check(config)
    optimizer = build_optimizer(config.optimizer)
    data = load_dataset(config.dataset, config.seed)
    model = build_model(config, data.train.shape)
    build_penalty(config).check(model.layers)
    log.info(
        f"{data.name}: {len(data.train):,} training, {len(data.validation):,} validation, "
        f"{len(data.test):,} test images\n{describe(model)}"
    )
    for warning in oversized(model, len(data.train)):
        log.warning(f"warning: {warning}")
    if config.trainer.self_check:
        self_check(model)
    if config.find_learning_rate:
        return search(model, optimizer, data, config, directory)
    if config.resume is not None:
        progress = restore(*read_state(directory), model, optimizer)
        log.info(f"going on after step {progress.step}, in epoch {progress.epoch + 1}")
    else:
        progress = Progress.fresh(config.seed)
        save_state(directory, model, optimizer, progress, dataclasses.asdict(config))
    if config.trainer.pretrain_epochs and progress.step == 0:
        pretrain(model, data, config, directory)
    progress = fit(model, optimizer, data, config, directory, progress)
    best = load(directory / BEST, device=model.device)
    return summarise(best, data, progress, config, directory)


def check(config: Config) -> None:
    """Refuse values that make no sense, before any data are read.

    Parameters
    ----------
    config : Config
        What to do.

    Raises
    ------
    ValueError
        If a value is out of range; the message names the key.
    """
    least = {
        1: ("epochs", "batch_size", "log_every", "panels_every", "probe", "checkpoint_every"),
        0: ("pretrain_epochs", "embeddings"),
    }
    for smallest, names in least.items():
        for name in names:
            value = getattr(config.trainer, name)
            if value < smallest:
                raise ValueError(f"trainer.{name}: {value} is too small; use {smallest} or more")
    if config.seed < 0:
        raise ValueError(f"seed: {config.seed} is too small; use 0 or more")
    if config.trainer.patience is not None and config.trainer.patience < 1:
        raise ValueError(f"trainer.patience: {config.trainer.patience} is too small; use 1 or more")
    if config.trainer.clip_norm is not None and not config.trainer.clip_norm > 0:
        raise ValueError(f"trainer.clip_norm: {config.trainer.clip_norm} is not a positive number")
    if not 0 < config.trainer.threshold_quantile < 1:
        value = config.trainer.threshold_quantile
        raise ValueError(f"trainer.threshold_quantile: {value} is not between 0 and 1")
    if config.trainer.ema is not None and not 0 < config.trainer.ema < 1:
        raise ValueError(f"trainer.ema: {config.trainer.ema} is not between 0 and 1")
    build_corruption(config)
    build_penalty(config)
    build_schedule(config.schedule)


def search(
    model: Autoencoder, optimizer: Optimizer, data: Splits, config: Config, directory: Path
) -> dict[str, float]:
    """Look for a learning rate instead of training.

    Parameters
    ----------
    model, optimizer
        Freshly built; spoilt by the search.
    data : Splits
        Of which the training images are used.
    config : Config
        The run's configuration.
    directory : Path
        ``learning_rate.png`` goes here.

    Returns
    -------
    dict
        ``validation_loss``, which nothing was learned for: infinity; ``learning_rate``, the one at
        which the loss fell fastest.
    """
    found = find_learning_rate(model, optimizer, data.train, config)
    path = directory / "learning_rate.png"
    checkpoint.write_bytes(path, found.png())
    log.info(
        f"\nThe loss fell fastest at a learning rate of {found.steepest:.1e}, and least at "
        f"{found.rates[found.losses.argmin()]:.1e}; see {path}.\n"
        f"Try: optimizer.learning_rate={found.steepest:.1e}"
    )
    return {"validation_loss": inf, "learning_rate": found.steepest}
