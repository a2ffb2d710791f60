"""Training: epochs, validation, the best model kept, and an honest summary."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

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
from convae.corruption import Corruption, Use
from convae.datasets import load_dataset
from convae.engine import Array
from convae.evaluation import mean_image_error, measure, pca_error
from convae.optimizers import Optimizer
from convae.pictures import png, reconstruction_grid
from convae.saved import BEST, LAST, load
from convae.signals import Interrupted, StopSignals
from convae.splits import Split, Splits, to_floats
from convae.state import LossSum, Progress, read_state, restore, save_state
from convae.step import TrainingStep
from convae.tensorboard import Board

log = logging.getLogger("convae")


def fit(
    model: Autoencoder,
    optimizer: Optimizer,
    data: Splits,
    config: Config,
    directory: Path,
    progress: Progress | None = None,
) -> Progress:
    """Train, validate after every epoch, and keep the best and the last model.

    Parameters
    ----------
    model : Autoencoder
        Trained in place.
    optimizer : Optimizer
        Fresh, or as the run that goes on left it.
    data : Splits
        Training and validation images, and test images to look at.
    config : Config
        How long, and what to show.
    directory : Path
        The run's folder: models, states and TensorBoard's events go here.
    progress : Progress, optional
        How far the run has come, if it goes on.

    Returns
    -------
    Progress
        Where the run ended.

    Raises
    ------
    FloatingPointError
        If the loss is no longer finite; the models and states saved before it stay.
    Interrupted
        If SIGINT or SIGTERM came; the state is saved.
    OSError
        If a file cannot be written; those saved before it stay.
    """
    trainer = config.trainer
    configuration = dataclasses.asdict(config)
    rng = np.random.default_rng([config.seed, 2])
    if progress is None:
        progress = Progress(order=dict(rng.bit_generator.state))
    rng.bit_generator.state = progress.order
    schedule = build_schedule(config.schedule)
    vars(schedule).update(progress.schedule)
    step = TrainingStep(model, optimizer, trainer.clip_norm)
    corruption = build_corruption(config)
    probe = Probe(data.test, trainer.probe, corruption)
    steps_per_epoch = -(-len(data.train) // trainer.batch_size)
    steps = trainer.epochs * steps_per_epoch
    saved_at = time.perf_counter()
    with (
        Board(directory, after=progress.step) as board,
        StopSignals() as stop,
        tqdm(
            total=steps,
            initial=progress.step,
            unit=" steps",
            disable=None,
        ) as bar,
        logging_redirect_tqdm([logging.getLogger()]),
    ):

        def save() -> None:
            nonlocal saved_at
            board.flush()
            save_state(directory, model, optimizer, progress, configuration)
            saved_at = time.perf_counter()

        if progress.step == 0:
            board.pictures(0, model, probe.rows(model))
        for epoch in range(progress.epoch + 1, trainer.epochs + 1):
            if is_tired(progress, trainer.patience):
                log.info(f"no lower validation loss in {trainer.patience} epochs: stopping here")
                break
            bar.set_description(f"epoch {epoch}/{trainer.epochs}")
            epoch_speed, speed = Speedometer(), Speedometer()
            for pixels in data.train.batches(trainer.batch_size, rng, skip=progress.batch):
                x = to_floats(pixels, model.xp, model.dtype)
                factor = schedule.factor(progress.step, steps, steps_per_epoch)
                optimizer.learning_rate = factor * config.optimizer.learning_rate
                loss = step(corruption(x, Use.TRAINING, progress.step), target=x)
                progress.step += 1
                progress.batch += 1
                for total in (progress.whole, progress.recent):
                    total.add(loss, len(pixels))
                for meter in (epoch_speed, speed):
                    meter.images += len(pixels)
                if progress.step % trainer.log_every == 0:
                    mean = progress.recent.mean()
                    board.training(progress.step, mean, optimizer.learning_rate, speed.read())
                    bar.set_postfix_str(f"loss {mean:.5f}, {speed.read():,.0f} images/s")
                    progress.recent, speed = LossSum(), Speedometer()
                bar.update()
                if stop.received:
                    save()
                    raise Interrupted(
                        stop.received,
                        f"stopped after step {progress.step}; "
                        f"to go on: python train.py resume={directory}",
                    )
                minutes = (time.perf_counter() - saved_at) / 60
                if minutes > trainer.checkpoint_minutes and progress.batch < steps_per_epoch:
                    save()
            train_loss = progress.whole.mean()
            if not np.isfinite(train_loss):
                raise FloatingPointError(
                    f"the loss became {train_loss} in epoch {epoch}; lower "
                    f"optimizer.learning_rate (it is {config.optimizer.learning_rate:g}), or set "
                    "trainer.clip_norm=1"
                )
            validation_loss = measure(
                model, data.validation, trainer.batch_size, Use.VALIDATION, corruption
            ).loss
            board.validation(progress.step, validation_loss)
            progress.epoch, progress.batch, progress.whole = epoch, 0, LossSum()
            progress.order = dict(rng.bit_generator.state)
            schedule.observe(validation_loss)
            progress.schedule = schedule.state()
            if validation_loss < progress.best_loss:
                progress.best_loss, progress.best_epoch = validation_loss, epoch
                model.save(directory / BEST)
            model.save(directory / LAST)
            last = epoch == trainer.epochs or is_tired(progress, trainer.patience)
            if epoch % trainer.images_every == 0 or last:
                board.pictures(progress.step, model, probe.rows(model))
            log.info(
                f"epoch {epoch:>{len(str(trainer.epochs))}}/{trainer.epochs}  "
                f"train {train_loss:.5f}  validation {validation_loss:.5f}  "
                f"{epoch_speed.read():,.0f} images/s"
                f"{'  best' if progress.best_epoch == epoch else ''}"
            )
            if epoch % trainer.checkpoint_every == 0 or last:
                save()
    return progress


def is_tired(progress: Progress, patience: int | None) -> bool:
    """Tell whether the validation loss has not fallen for too many epochs.

    Parameters
    ----------
    progress : Progress
        How far the run has come.
    patience : int or None
        Epochs without improvement that are too many; None for any number.

    Returns
    -------
    bool
        Whether to stop.
    """
    return patience is not None and progress.epoch - progress.best_epoch >= patience


class Probe:
    """The test images that are shown again and again.

    Parameters
    ----------
    test : Split
        Where they are taken from: the first ones.
    count : int
        How many.
    corruption : Corruption
        Noise on what the model is given, the same every time.
    """

    def __init__(self, test: Split, count: int, corruption: Corruption) -> None:
        self._pixels = next(test.batches(count))
        self._corruption = corruption

    def rows(self, model: Autoencoder) -> list[Array]:
        """Give the rows of the picture: originals, corrupted ones if any, reconstructions."""
        x = to_floats(self._pixels, model.xp, model.dtype)
        given = self._corruption(x, Use.PROBE, 0)
        return [x, *([given] if self._corruption else []), model.reconstruct(given)]


class Speedometer:
    """Images a second, by the wall clock, since it was made."""

    def __init__(self) -> None:
        self.images = 0
        self._start = time.perf_counter()

    def read(self) -> float:
        """Divide the images by the time that has passed."""
        return self.images / (time.perf_counter() - self._start)


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
