"""The training loop: epochs, validation, the best model kept, and a state to resume from."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from math import nan

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from convae.data.augmentation import Augmentation, Cropped
from convae.data.pictures import to_floats
from convae.data.splits import (
    InMemory,
    OwnBatch,
    Split,
    Splits,
    digest,
    kind,
    own_batches,
    shuffled,
)
from convae.engine import Array, device_failures, to_numpy
from convae.errors import DeviceError, DivergenceError, UserError
from convae.models import checkpoint
from convae.models.loading import BEST, LAST
from convae.models.model import Model
from convae.report.diagnostics import dead_filters
from convae.report.tensorboard import Board
from convae.training.averaging import MovingAverage
from convae.training.progress import LossSum, Progress
from convae.training.schedules import Schedule
from convae.training.signals import Interrupted, StopSignals
from convae.training.state import StateFolder, has_state
from convae.training.step import TrainingStep
from convae.training.tasks import Task

log = logging.getLogger("convae")

REPORT_SECONDS = 30.0
"""Without a terminal, seconds between two lines within an epoch."""

MEMORY_PART = 0.25
"""Part of a GPU's free memory that training images may take; others are copied batch by batch."""

SHOWN_IMAGES = 256
"""Images of a split, at most, on which dead filters are counted, and what a kind of model adds."""


@dataclass(kw_only=True)
class Trainer:
    """Trains a model: `fit` runs the epochs that are left.

    Parameters
    ----------
    step : TrainingStep
        Model and optimizer; the optimizer's learning rate is the one that the schedule scales.
    data : Splits
        Training and validation images.
    schedule : Schedule
        The learning rate over the run.
    task : Task
        What the model is trained for.
    augmentation : Augmentation
        Random changes of training images.
    board : Board
        TensorBoard's curves and pictures.
    states : StateFolder
        The run's folder: states and models are saved there.
    progress : Progress
        How far the run has come.
    epochs, batch_size : int
        How long, and images of a step.
    log_every : int
        Steps between two points of the training curves.
    panels_every : int
        Epochs between two sets of pictures and histograms.
    checkpoint_every : int
        Epochs between two states.
    checkpoint_minutes : float
        Minutes between two states within a long epoch.
    patience : int, optional
        Epochs without a lower validation loss after which training stops.
    after_epoch : callable, optional
        Called after each epoch with its number and its validation loss; true stops the training.

    Attributes
    ----------
    stopped : bool
        Whether `after_epoch` has stopped it.
    """

    step: TrainingStep
    data: Splits
    schedule: Schedule
    task: Task
    augmentation: Augmentation
    board: Board
    states: StateFolder
    progress: Progress
    epochs: int
    batch_size: int
    log_every: int = 20
    panels_every: int = 20
    checkpoint_every: int = 1
    checkpoint_minutes: float = 10.0
    patience: int | None = None
    after_epoch: Callable[[int, float], bool] | None = None
    stopped: bool = field(default=False, init=False)
    rng: np.random.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Continue from the progress."""
        progress = self.progress
        self.base_rate = self.step.optimizer.learning_rate
        self.steps_per_epoch = -(-len(self.data.train) // self.batch_size)
        if progress.batch and progress.steps_per_epoch != self.steps_per_epoch:
            raise UserError(
                f"resume: the run stopped in the middle of an epoch of {progress.steps_per_epoch} "
                f"steps, which now has {self.steps_per_epoch}; do not change trainer.batch_size or "
                "the images before it ends"
            )
        progress.steps_per_epoch = self.steps_per_epoch
        self.rng = np.random.default_rng()
        self.rng.bit_generator.state = progress.order
        self.schedule.load_state(progress.schedule)
        progress.schedule = self.schedule.state()
        if progress.epoch >= self.epochs and progress.epoch and progress.best is None:
            raise UserError(
                "loss.name: with another loss the best epoch is searched for anew, but no epochs "
                "are left; prolong the run with trainer.epochs"
            )
        self._announce_schedule()
        if self.average is None:
            progress.average = None
        elif progress.average is not None:
            self.average.parameters[...] = self.model.xp.asarray(progress.average)
        self.group = self.step.group
        if self.batch_size < self.group.size:
            raise UserError(
                f"trainer.batch_size: {self.batch_size} images cannot be divided among "
                f"{self.group.size} processes; raise it, or start fewer"
            )
        self._kind = kind(self.data.train.shape)
        train = self.data.train
        if isinstance(train, Cropped) and self.augmentation.crop is not None:
            train = train.whole  # of which the augmentation takes windows
        self._train = on_device(train, self.model)
        self._first: dict[str, Array] = {}

    @property
    def model(self) -> Model:
        """The model in training."""
        return self.step.model

    @property
    def average(self) -> MovingAverage | None:
        """The average of the parameters that is evaluated and kept, if there is one."""
        return self.step.average

    def fit(self) -> Progress:
        """Train, validate after every epoch, and keep the best and the last model.

        Returns
        -------
        Progress
            Where the run ended.

        Raises
        ------
        DivergenceError
            If the loss is no longer finite; the models and states saved before it remain.
        Interrupted
            If one of `convae.training.signals.SIGNALS` was received; the state is saved.
        OSError
            If a file cannot be written; those saved before it remain.
        """
        progress = self.progress
        self._saved_at = self._reported_at = time.perf_counter()
        self._restore_best()
        with (
            StopSignals() as self._stop,
            tqdm(
                total=self.epochs * self.steps_per_epoch,
                initial=progress.step,
                unit=" steps",
                disable=None if self.group.is_first else True,
            ) as self._bar,
            logging_redirect_tqdm([logging.getLogger()]),
            warnings.catch_warnings(),
        ):
            # a loss that overflows ends the run with a message of its own
            warnings.simplefilter("ignore", RuntimeWarning)
            try:
                self._agree()
                if progress.step == 0:
                    self._show_panels()
                    self._validate(0)  # a start that training does not improve is kept
                self._do_epochs()
            except device_failures() as error:
                raise self._device_failed(error) from error
            if self._stop.received:  # after the last step: the state is saved
                raise Interrupted(self._stop.received, f"stopped after step {progress.step}")
        return progress

    def _do_epochs(self) -> None:
        """Do the epochs that are left."""
        for epoch in range(self.progress.epoch + 1, self.epochs + 1):
            if self._patience_exhausted():
                log.info(f"no lower validation loss in {self.patience} epochs: stopping early")
                break
            self._bar.set_description(f"epoch {epoch}/{self.epochs}")
            speed = self._train_epoch()
            self._end_epoch(speed)
            if self.stopped:
                break

    def _device_failed(self, error: Exception) -> DeviceError:
        """Say that the GPU is lost to this process, and what is not lost."""
        progress = self.progress
        kept = "nothing was saved before"
        if has_state(self.states.directory):
            kept = f"the states in {self.states.directory} are kept: resume from there"
        return DeviceError(
            f"the GPU failed in epoch {progress.epoch + 1}, by step {progress.step + 1}: {error}; "
            f"{kept} (nvidia-smi shows whether it is still there; gpu_engine=portable does without "
            "convae's own kernels)"
        )

    def _train_epoch(self) -> float:
        """Do the steps of an epoch that are left; returns images per second."""
        progress = self.progress
        whole, recent = Speedometer(), Speedometer()
        order = shuffled(self._train, self.rng)
        for own in own_batches(self._train, self.batch_size, self.group, order, progress.batch):
            loss, examples = self._train_batch(own), own.share.whole
            for total in (progress.whole, progress.recent):
                total.add(loss, examples)
            for meter in (whole, recent):
                meter.images += examples
            if progress.step % self.log_every == 0:
                mean, speed = progress.recent.mean(), recent.read()
                self._check_finite(mean)
                rate = self.step.optimizer.learning_rate
                self.board.training(progress.step, mean, rate, speed)
                self._report(f"loss {mean:.5f}, {speed:,.0f} {self._kind}s/s")
                progress.recent, recent = LossSum(), Speedometer()
            self._bar.update()
            self._save_if_due()
        return whole.read()

    def _report(self, news: str) -> None:
        """Show how an epoch proceeds: at the progress bar, or without a terminal in a line."""
        self._bar.set_postfix_str(news)
        now = time.perf_counter()
        if self._bar.disable and now - self._reported_at > REPORT_SECONDS:
            self._reported_at = now
            progress = self.progress
            log.info(
                f"epoch {progress.epoch + 1}/{self.epochs}: "
                f"step {progress.batch} of {self.steps_per_epoch}, {news}"
            )

    def _announce_schedule(self) -> None:
        """Report how the learning rate jumps where a resumed run has another length."""
        progress = self.progress
        steps = self.epochs * self.steps_per_epoch
        if self.schedule.warmup >= steps:
            raise UserError(
                f"schedule.warmup: {self.schedule.warmup} steps, but the whole run has only {steps}"
            )
        before, progress.steps = progress.steps, steps
        if not progress.step or not before or before == steps:
            return
        old, new = (
            self.base_rate * self.schedule.factor(progress.step, length, self.steps_per_epoch)
            for length in (before, steps)
        )
        if old != new:
            log.warning(
                f"warning: the run now has {steps:,} steps instead of {before:,}, and the schedule "
                f"spans all of them: the learning rate goes from {old:.2g} to {new:.2g}"
            )

    def _restore_best(self) -> None:
        """Write the best model's file again, from the state, if it is not the one that it names."""
        best, path = self.progress.best, self.states.directory / BEST
        if best is None or not self.group.is_first:
            return
        try:
            kept, _ = checkpoint.read(path)
        except (OSError, UserError):
            kept = {}
        if kept.keys() == best.keys() and all(np.array_equal(kept[n], best[n]) for n in best):
            return
        description = self.model.description()
        description["metadata"] = {**self.model.metadata, "epoch": self.progress.best_epoch}
        checkpoint.write(path, best, description)

    def _train_batch(self, own: OwnBatch) -> Array:
        """Do one step on this process's share of a batch; returns its loss, on the device."""
        progress, model = self.progress, self.model
        steps = self.epochs * self.steps_per_epoch
        done = progress.epoch * self.steps_per_epoch + progress.batch
        factor = self.schedule.factor(done, steps, self.steps_per_epoch)
        self.step.optimizer.learning_rate = factor * self.base_rate
        pixels = self.augmentation(own.pixels, progress.step, own.share)
        x = to_floats(pixels, model.backend, model.dtype)
        given = self.task.batch(x, own.positions, progress.step, own.share)
        if self.group.size > 1:
            self.group.stopping = self._stop.received
        try:
            loss = self.step(*given, own.share)
        except DivergenceError:
            raise self._diverged(nan, progress.step + 1) from None
        progress.step += 1
        progress.batch += 1
        return loss

    def _save_if_due(self) -> None:
        """Save the state within an epoch: when a signal was received, or after some minutes."""
        progress = self.progress
        # several processes have to know it after the same step
        stopping = self._stop.received if self.group.size == 1 else self.group.stopping
        if stopping:
            self._save()
            raise Interrupted(stopping, f"stopped after step {progress.step}")
        minutes = (time.perf_counter() - self._saved_at) / 60
        if minutes > self.checkpoint_minutes and progress.batch < self.steps_per_epoch:
            self._save()

    def _check_finite(self, loss: float) -> None:
        """Stop a run whose loss is no longer finite, before anything of it is saved."""
        if not np.isfinite(loss):
            raise self._diverged(loss, self.progress.step)

    def _diverged(self, loss: float, step: int) -> DivergenceError:
        progress = self.progress
        kept = f". The best model, of epoch {progress.best_epoch}, and the last state are kept"
        penalties = ", ".join(f"penalty.{name}" for name in self.step.penalty.strengths())
        lower = f"{penalties} or " if penalties else ""
        return DivergenceError(
            f"the loss became {loss} in epoch {progress.epoch + 1}, by step {step}; lower {lower}"
            f"optimizer.learning_rate (it is {self.base_rate:g}; find_learning_rate=true suggests "
            "one), or set trainer.clip_norm=1 or schedule.warmup=100"
            f"{kept if progress.best is not None else ''}"
        )

    def _end_epoch(self, speed: float) -> None:
        """Validate, save and report."""
        progress = self.progress
        self._agree()
        epoch = progress.epoch + 1
        train_loss = progress.whole.mean()
        self._check_finite(train_loss)
        with self._averaged():
            loss = self._validate(epoch)
        progress.epoch, progress.batch, progress.whole = epoch, 0, LossSum()
        progress.order = dict(self.rng.bit_generator.state)
        progress.schedule = self.schedule.state()
        self.stopped = self.after_epoch is not None and self.after_epoch(epoch, loss)
        is_last = self.stopped or epoch == self.epochs or self._patience_exhausted()
        dead = self._show_panels() if epoch % self.panels_every == 0 or is_last else ""
        log.info(
            f"epoch {epoch:>{len(str(self.epochs))}}/{self.epochs}  "
            f"train {train_loss:.5f}  validation {loss:.5f}{self._figures}  "
            f"{speed:,.0f} {self._kind}s/s{'  best' if progress.best_epoch == epoch else ''}{dead}"
        )
        if epoch % self.checkpoint_every == 0 or is_last:
            self._save()

    def _agree(self) -> None:
        """Check that all processes have the same parameters."""
        if self.group.size > 1:
            found = digest(to_numpy(self.model.flat_parameters).data)
            self.group.agree(parameters=found)

    def _patience_exhausted(self) -> bool:
        """Tell whether the validation loss has not fallen for too many epochs."""
        waited = self.progress.epoch - max(self.progress.best_epoch, self.progress.searched_from)
        return self.patience is not None and waited >= self.patience

    def _averaged(self) -> AbstractContextManager[None]:
        """Put the average in place of the model's parameters, if the run keeps one."""
        return self.average.in_place() if self.average else nullcontext()

    def _validate(self, epoch: int) -> float:
        """Measure the validation loss, without penalties, and keep the model if it is the best."""
        progress, model, directory = self.progress, self.model, self.states.directory
        loss, figures = self.task.validate(self.step, self.data.validation, self.batch_size)
        self._check_finite(loss)
        self._figures = "".join(f"  {name} {value:.4f}" for name, value in figures.items())
        self.board.validation(progress.step, loss, figures)
        for part in ("validation", "train") if self.group.is_first else ():
            if not (values := model.quantities(self._first_images(part))):
                break  # nor has it any of other images
            self.board.quantities(progress.step, model.kind, values, part)
        self.schedule.observe(loss)
        model.metadata["epoch"] = epoch
        if loss < progress.best_loss:
            progress.best_loss, progress.best_epoch = loss, epoch
            progress.best = {name: to_numpy(a).copy() for name, a in model.parameters.items()}
            if self.group.is_first:
                model.save(directory / BEST)
        if self.group.is_first:
            model.save(directory / LAST)
        return loss

    def _first_images(self, part: str) -> Array:
        """Return the first images of a part of the data, read when they are first asked for."""
        if part not in self._first:
            pixels = next(getattr(self.data, part).batches(SHOWN_IMAGES))
            self._first[part] = to_floats(pixels, self.model.backend, self.model.dtype)
        return self._first[part]

    def _show_panels(self) -> str:
        """Put pictures and histograms on the board; returns a clause on dead filters, if any."""
        if not self.group.is_first:
            return ""
        with self._averaged():
            self.task.show(self.board, self.progress.step, self.step)
            dead = [dead_filters(H) for H in self.model.codes(self._first_images("validation"))]
        self.board.dead_filters(self.progress.step, dead)
        counts = [
            f"{count} of {layer.spec.filters} in layer {index}"
            for index, (count, layer) in enumerate(zip(dead, self.model.layers, strict=True))
            if count
        ]
        return f"  dead filters: {', '.join(counts)}" if counts else ""

    def _save(self) -> None:
        """Write the state from which the run can resume, and all curves up to it."""
        progress = self.progress
        if progress.whole.images:
            self._check_finite(progress.whole.mean())
        if self.average is not None:
            progress.average = to_numpy(self.average.parameters)
        self.board.flush()
        if self.group.is_first:
            self.states.save(self.model, self.step.optimizer, progress)
        self._saved_at = time.perf_counter()


class Speedometer:
    """Images per second, by the wall clock, since it was made."""

    def __init__(self) -> None:
        self.images = 0
        self._start = time.perf_counter()

    def read(self) -> float:
        """Divide the images by the time that has passed."""
        return self.images / (time.perf_counter() - self._start)


def on_device(split: Split, model: Model) -> Split:
    """Copy images to a model's GPU, where they take a small part of its free memory."""
    if model.device != "gpu" or not isinstance(split, InMemory):
        return split
    free, _ = model.xp.cuda.runtime.memGetInfo()
    if split.pixels.nbytes > MEMORY_PART * free:
        return split
    log.info(f"training images are kept on the GPU: {split.pixels.nbytes / 1e6:,.0f} MB")
    return split.on(model.xp)
