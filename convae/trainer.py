"""Training: epochs, validation, the best model kept, and a state to go on from."""

from __future__ import annotations

import dataclasses
import logging
import time
import warnings
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from convae.autoencoder import Autoencoder
from convae.averaging import MovingAverage
from convae.build import build_corruption, build_penalty, build_schedule
from convae.configuration import Config
from convae.corruption import Corruption, Use
from convae.diagnostics import codes, dead_filters
from convae.engine import Array, to_numpy
from convae.evaluation import measure
from convae.optimizers import Optimizer
from convae.saved import BEST, LAST
from convae.signals import Interrupted, StopSignals
from convae.splits import Pixels, Split, Splits, to_floats
from convae.state import LossSum, Progress, save_state
from convae.step import TrainingStep
from convae.tensorboard import Board

log = logging.getLogger("convae")

FOR_DEAD_FILTERS = 256
"""Validation images, at most, none of which a dead filter answers to."""


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
    progress = progress or Progress.fresh(config.seed)
    trainer = config.trainer
    steps = trainer.epochs * -(-len(data.train) // trainer.batch_size)
    with (
        Board(directory, dataclasses.asdict(config), after=progress.step) as board,
        StopSignals() as stop,
        tqdm(total=steps, initial=progress.step, unit=" steps", disable=None) as bar,
        logging_redirect_tqdm([logging.getLogger()]),
        warnings.catch_warnings(),
    ):
        # a loss that overflows ends the run with a message of its own
        warnings.simplefilter("ignore", RuntimeWarning)
        run = Run(model, optimizer, data, config, directory, progress, board, stop, bar)
        if progress.step == 0:
            run.show_panels()
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
        self.steps_per_epoch = -(-len(data.train) // self.trainer.batch_size)
        if progress.batch and progress.steps_per_epoch != self.steps_per_epoch:
            raise ValueError(
                f"resume: the run stopped in the middle of an epoch of {progress.steps_per_epoch} "
                f"steps, which now has {self.steps_per_epoch}; leave trainer.batch_size and the "
                "images as they were until it ends"
            )
        progress.steps_per_epoch = self.steps_per_epoch
        self.schedule = build_schedule(config.schedule)
        vars(self.schedule).update(progress.schedule)
        penalty = build_penalty(config)
        self.step = TrainingStep(model, optimizer, self.trainer.clip_norm, penalty)
        self.average = None
        if self.trainer.ema is not None:
            self.average = MovingAverage(model, self.trainer.ema)
            if progress.average is not None:
                self.average.parameters[...] = model.xp.asarray(progress.average)
        self.corruption = build_corruption(config)
        self.probe = Probe(data.test, self.trainer.probe, self.corruption)
        pixels = next(data.validation.batches(FOR_DEAD_FILTERS))
        self.many = to_floats(pixels, model.xp, model.dtype)
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
                self.check(mean)
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
        done = progress.epoch * self.steps_per_epoch + progress.batch
        factor = self.schedule.factor(done, steps, self.steps_per_epoch)
        self.optimizer.learning_rate = factor * self.config.optimizer.learning_rate
        x = to_floats(pixels, self.model.xp, self.model.dtype)
        loss = self.step(self.corruption(x, Use.TRAINING, progress.step), target=x)
        progress.step += 1
        if self.average is not None:
            self.average.update(progress.step)
        progress.batch += 1
        return loss

    def check(self, loss: float) -> None:
        """Stop a run whose loss is lost, before anything of it is saved.

        Parameters
        ----------
        loss : float
            Mean loss over some steps.

        Raises
        ------
        FloatingPointError
            If it is no longer finite.
        """
        if np.isfinite(loss):
            return
        progress = self.progress
        kept = f". The best model, of epoch {progress.best_epoch}, and the last state are kept"
        raise FloatingPointError(
            f"the loss became {loss} in epoch {progress.epoch + 1}, by step {progress.step}; lower "
            f"optimizer.learning_rate (it is {self.config.optimizer.learning_rate:g}; "
            "find_learning_rate=true looks for one), or set trainer.clip_norm=1 or "
            f"schedule.warmup=100{kept if progress.best_epoch else ''}"
        )

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
        progress, trainer = self.progress, self.trainer
        epoch = progress.epoch + 1
        train_loss = progress.whole.mean()
        self.check(train_loss)
        with self.averaged():
            loss = self.validate(epoch)
        progress.epoch, progress.batch, progress.whole = epoch, 0, LossSum()
        progress.order = dict(self.rng.bit_generator.state)
        progress.schedule = self.schedule.state()
        last = epoch == trainer.epochs or is_tired(progress, trainer.patience)
        dead = self.show_panels() if epoch % trainer.panels_every == 0 or last else ""
        log.info(
            f"epoch {epoch:>{len(str(trainer.epochs))}}/{trainer.epochs}  "
            f"train {train_loss:.5f}  validation {loss:.5f}  "
            f"{speed:,.0f} images/s{'  best' if progress.best_epoch == epoch else ''}{dead}"
        )
        if epoch % trainer.checkpoint_every == 0 or last:
            self.save()

    def averaged(self) -> AbstractContextManager[None]:
        """Let the model work with the average of its parameters, if the run keeps one."""
        return self.average.in_place() if self.average else nullcontext()

    def validate(self, epoch: int) -> float:
        """Measure the model, and keep it if it is the best.

        Parameters
        ----------
        epoch : int
            The epoch that ends.

        Returns
        -------
        float
            The validation loss, without penalties.
        """
        progress, model, size = self.progress, self.model, self.trainer.batch_size
        errors = measure(model, self.data.validation, size, Use.VALIDATION, self.corruption)
        self.check(errors.loss)
        self.board.validation(progress.step, errors.loss)
        self.schedule.observe(errors.loss)
        if errors.loss < progress.best_loss:
            progress.best_loss, progress.best_epoch = errors.loss, epoch
            model.save(self.directory / BEST)
        model.save(self.directory / LAST)
        return errors.loss

    def show_panels(self) -> str:
        """Put pictures and histograms on the board; tell of dead filters, if there are any."""
        x, given = self.probe.images(self.model)
        with self.averaged():
            self.board.panels(self.progress.step, self.model, x, given)
            dead = [dead_filters(H) for H in codes(self.model, self.many)]
        self.board.dead_filters(self.progress.step, dead)
        layers = zip(dead, self.model.layers, strict=True)
        counts = [
            f"{count} of {layer.layer.filters} in layer {index}"
            for index, (count, layer) in enumerate(layers)
            if count
        ]
        return f"  dead filters: {', '.join(counts)}" if counts else ""

    def save(self) -> None:
        """Write the state from which the run can go on, and all that is shown up to it."""
        if self.progress.whole.images:
            self.check(self.progress.whole.mean())
        if self.average is not None:
            self.progress.average = to_numpy(self.average.parameters)
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

    def images(self, model: Autoencoder) -> tuple[Array, Array | None]:
        """Give the images, and the corrupted ones where there is noise."""
        x = to_floats(self._pixels, model.xp, model.dtype)
        return x, self._corruption(x, Use.PROBE, 0) if self._corruption else None

    def rows(self, model: Autoencoder) -> list[Array]:
        """Give the rows of a picture: originals, corrupted ones if any, reconstructions."""
        x, given = self.images(model)
        if given is None:
            return [x, model.reconstruct(x)]
        return [x, given, model.reconstruct(given)]


class Speedometer:
    """Images a second, by the wall clock, since it was made."""

    def __init__(self) -> None:
        self.images = 0
        self._start = time.perf_counter()

    def read(self) -> float:
        """Divide the images by the time that has passed."""
        return self.images / (time.perf_counter() - self._start)
