"""Training: epochs, validation, the best model kept, and a state to go on from."""

from __future__ import annotations

import dataclasses
import logging
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from convae.autoencoder import Autoencoder
from convae.build import build_corruption, build_schedule
from convae.configuration import Config
from convae.corruption import Corruption, Use
from convae.engine import Array
from convae.evaluation import measure
from convae.optimizers import Optimizer
from convae.saved import BEST, LAST
from convae.signals import Interrupted, StopSignals
from convae.splits import Pixels, Split, Splits, to_floats
from convae.state import LossSum, Progress, save_state
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
    if progress is None:
        rng = np.random.default_rng([config.seed, 2])
        progress = Progress(order=dict(rng.bit_generator.state))
    trainer = config.trainer
    steps = trainer.epochs * -(-len(data.train) // trainer.batch_size)
    with (
        Board(directory, after=progress.step) as board,
        StopSignals() as stop,
        tqdm(total=steps, initial=progress.step, unit=" steps", disable=None) as bar,
        logging_redirect_tqdm([logging.getLogger()]),
    ):
        run = Run(model, optimizer, data, config, directory, progress, board, stop, bar)
        if progress.step == 0:
            run.show_pictures()
        for epoch in range(progress.epoch + 1, trainer.epochs + 1):
            if is_tired(progress, trainer.patience):
                log.info(f"no lower validation loss in {trainer.patience} epochs: stopping here")
                break
            bar.set_description(f"epoch {epoch}/{trainer.epochs}")
            speed = run.train_epoch()
            run.end_epoch(speed)
    return progress


class Run:
    """What `fit` holds on to from epoch to epoch.

    Parameters
    ----------
    model, optimizer, data, config, directory, progress
        As in `fit`; progress is there from the start.
    board : Board
        What TensorBoard shows.
    stop : StopSignals
        Whether to stop.
    bar : tqdm
        The progress bar.
    """

    def __init__(
        self,
        model: Autoencoder,
        optimizer: Optimizer,
        data: Splits,
        config: Config,
        directory: Path,
        progress: Progress,
        board: Board,
        stop: StopSignals,
        bar: tqdm,
    ) -> None:
        self.model, self.optimizer, self.data = model, optimizer, data
        self.config, self.trainer = config, config.trainer
        self.directory, self.progress = directory, progress
        self.board, self.stop, self.bar = board, stop, bar
        self.rng = np.random.default_rng()
        self.rng.bit_generator.state = progress.order
        self.schedule = build_schedule(config.schedule)
        vars(self.schedule).update(progress.schedule)
        self.step = TrainingStep(model, optimizer, self.trainer.clip_norm)
        self.corruption = build_corruption(config)
        self.probe = Probe(data.test, self.trainer.probe, self.corruption)
        self.steps_per_epoch = -(-len(data.train) // self.trainer.batch_size)
        self.saved_at = time.perf_counter()

    def train_epoch(self) -> float:
        """Do the steps of an epoch that are still to do.

        Returns
        -------
        float
            Images a second.

        Raises
        ------
        Interrupted
            If a signal came; the state is saved.
        """
        progress, size = self.progress, self.trainer.batch_size
        whole, recent = Speedometer(), Speedometer()
        for pixels in self.data.train.batches(size, self.rng, skip=progress.batch):
            loss = self.train_batch(pixels)
            for total in (progress.whole, progress.recent):
                total.add(loss, len(pixels))
            for meter in (whole, recent):
                meter.images += len(pixels)
            if progress.step % self.trainer.log_every == 0:
                mean, speed = progress.recent.mean(), recent.read()
                self.board.training(progress.step, mean, self.optimizer.learning_rate, speed)
                self.bar.set_postfix_str(f"loss {mean:.5f}, {speed:,.0f} images/s")
                progress.recent, recent = LossSum(), Speedometer()
            self.bar.update()
            if self.stop.received:
                self.save()
                raise Interrupted(
                    self.stop.received,
                    f"stopped after step {progress.step}; "
                    f"to go on: python train.py resume={self.directory}",
                )
            minutes = (time.perf_counter() - self.saved_at) / 60
            if minutes > self.trainer.checkpoint_minutes and progress.batch < self.steps_per_epoch:
                self.save()
        return whole.read()

    def train_batch(self, pixels: Pixels) -> Array:
        """Do one step.

        Parameters
        ----------
        pixels : (N, C, H, W) ndarray of uint8
            A batch.

        Returns
        -------
        0-d ndarray
            Its loss, on the device.
        """
        progress = self.progress
        steps = self.trainer.epochs * self.steps_per_epoch
        factor = self.schedule.factor(progress.step, steps, self.steps_per_epoch)
        self.optimizer.learning_rate = factor * self.config.optimizer.learning_rate
        x = to_floats(pixels, self.model.xp, self.model.dtype)
        loss = self.step(self.corruption(x, Use.TRAINING, progress.step), target=x)
        progress.step += 1
        progress.batch += 1
        return loss

    def end_epoch(self, speed: float) -> None:
        """Validate, and keep what has to be kept.

        Parameters
        ----------
        speed : float
            Images a second, to be told.

        Raises
        ------
        FloatingPointError
            If the training loss is no longer finite.
        """
        progress, trainer, model = self.progress, self.trainer, self.model
        epoch = progress.epoch + 1
        train_loss = progress.whole.mean()
        if not np.isfinite(train_loss):
            raise FloatingPointError(
                f"the loss became {train_loss} in epoch {epoch}; lower optimizer.learning_rate "
                f"(it is {self.config.optimizer.learning_rate:g}), or set trainer.clip_norm=1"
            )
        validation = self.data.validation
        errors = measure(model, validation, trainer.batch_size, Use.VALIDATION, self.corruption)
        self.board.validation(progress.step, errors.loss)
        self.schedule.observe(errors.loss)
        progress.epoch, progress.batch, progress.whole = epoch, 0, LossSum()
        progress.order, progress.schedule = (
            dict(self.rng.bit_generator.state),
            self.schedule.state(),
        )
        if errors.loss < progress.best_loss:
            progress.best_loss, progress.best_epoch = errors.loss, epoch
            model.save(self.directory / BEST)
        model.save(self.directory / LAST)
        last = epoch == trainer.epochs or is_tired(progress, trainer.patience)
        if epoch % trainer.images_every == 0 or last:
            self.show_pictures()
        log.info(
            f"epoch {epoch:>{len(str(trainer.epochs))}}/{trainer.epochs}  "
            f"train {train_loss:.5f}  validation {errors.loss:.5f}  "
            f"{speed:,.0f} images/s{'  best' if progress.best_epoch == epoch else ''}"
        )
        if epoch % trainer.checkpoint_every == 0 or last:
            self.save()

    def show_pictures(self) -> None:
        """Put the probe images and the filters on the board."""
        self.board.pictures(self.progress.step, self.model, self.probe.rows(self.model))

    def save(self) -> None:
        """Write the state from which the run can go on, and all that is shown up to it."""
        self.board.flush()
        configuration = dataclasses.asdict(self.config)
        save_state(self.directory, self.model, self.optimizer, self.progress, configuration)
        self.saved_at = time.perf_counter()


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
