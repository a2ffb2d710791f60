"""A whole run: data, model, training, and an honest summary."""

from __future__ import annotations

import dataclasses
import logging
from math import inf
from pathlib import Path

from convae import checkpoint
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
from convae.datasets import load_dataset
from convae.diagnostics import self_check
from convae.engine import missing_gpu
from convae.learning_rate import find_learning_rate
from convae.optimizers import Optimizer
from convae.pretraining import pretrain
from convae.saved import BEST, load
from convae.splits import Splits
from convae.state import Progress, read_state, restore, save_state
from convae.summary import summarise
from convae.trainer import fit

log = logging.getLogger("convae")


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
    model.check_penalty(build_penalty(config))
    log.info(
        f"{data.name}: {len(data.train):,} training, {len(data.validation):,} validation, "
        f"{len(data.test):,} test images\n{describe(model)}"
    )
    if config.device == "auto" and model.device == "cpu":
        log.info(f"device=auto took the CPU: {missing_gpu()}")
    for warning in oversized(model, len(data.train)):
        log.warning(f"warning: {warning}")
    if config.trainer.self_check:
        self_check(model, config.tf32)
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
    if config.trainer.clip_norm is not None and not 0 < config.trainer.clip_norm < inf:
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
