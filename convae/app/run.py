"""A whole run: data, model, training, summary."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from omegaconf import OmegaConf

from convae.app.class_summary import summarise
from convae.app.summary import Summary
from convae.configuration import Config
from convae.data.augmentation import cropped
from convae.data.corruption import Corruption, Use
from convae.data.datasets import load_dataset
from convae.data.splits import Splits, kind, noun
from convae.engine import missing_gpu, to_numpy
from convae.errors import UserError
from convae.files import locked, write_bytes
from convae.models.autoencoder import Autoencoder
from convae.models.classifier import Classifier
from convae.models.loading import BEST, load
from convae.models.model import Model
from convae.processes import ALONE, Group
from convae.report.baselines import Baselines
from convae.report.describe import describe, oversized
from convae.report.diagnostics import self_check
from convae.report.evaluation import measure, measure_quality
from convae.report.tensorboard import Board
from convae.training.build import (
    Parts,
    build_model,
    build_parts,
    build_step,
    build_task,
    build_trainer,
)
from convae.training.choices import choose
from convae.training.learning_rate_finder import find_learning_rate
from convae.training.pretraining import pretrain
from convae.training.start import start
from convae.training.state import (
    StateFolder,
    begin,
    check_resumable,
    is_used,
    read_state,
    restore,
    used_folder,
)
from convae.training.tasks import classes_of
from convae.training.trainer import Trainer

log = logging.getLogger("convae")


@dataclass(frozen=True)
class Result:
    """The result of a run.

    Parameters
    ----------
    directory : Path
        The run's folder.
    model : Model
        The best model.
    figures : dict
        The numbers of the summary: ``validation_loss``, ``test_mse``, ``pca_mse`` and so on.
    """

    directory: Path
    model: Model = field(repr=False)
    figures: dict[str, float]


AfterEpoch = Callable[[int, float], bool]
"""Called after each epoch with its number and its validation loss; true ends the training."""


def run(
    config: Config,
    directory: Path,
    hyperparameters: Mapping[str, float | str],
    after_epoch: AfterEpoch | None = None,
    group: Group = ALONE,
) -> Result:
    """Do a whole run in a folder; if the configuration says resume, continue from its state.

    The hyperparameters, what tells a fresh run from others, are only shown. Of several processes
    the first writes and reports.

    Raises `UserError` where the configuration, the data or the device is at fault, `OSError` where
    files cannot be read or written, and `Interrupted` when a signal stopped it.
    """
    if group.size > 1:
        configuration = json.dumps(dataclasses.asdict(config))
        group.agree(configuration=configuration)
    with locked(directory) if group.is_first else nullcontext():
        return _run(config, directory, hyperparameters, after_epoch, group)


def _run(
    config: Config,
    directory: Path,
    hyperparameters: Mapping[str, float | str],
    after_epoch: AfterEpoch | None,
    group: Group,
) -> Result:
    if config.resume is None and group.is_first and is_used(directory):
        raise UserError(used_folder(directory))
    build_parts(config)  # mistakes show before any images are read
    if group.size > 1 and config.model.kind == "rbm":
        raise UserError("model.kind: 'rbm' draws its samples in one process; start no others")
    data = group.read(lambda: load_dataset(config.dataset, config.seed))
    data = cropped(data, config.augmentation.window)
    chosen = group.of_first(lambda: choose(config, data))
    config = chosen.config
    parts = build_parts(config)
    classes = classes_of(data) if config.task == "classify" else 0
    model = build_model(config, data.train.shape, classes)
    group.agree(device=model.device)
    model.check_penalty(parts.penalty)
    _announce(config, model, data, chosen.reasons)
    if config.resume is None:
        if group.is_first:
            start(model, config, data)
        if group.size > 1:
            begun = group.of_first(lambda: to_numpy(model.flat_parameters))
            model.flat_parameters[...] = model.xp.asarray(begun)
    if config.trainer.self_check and group.is_first:
        assert config.trainer.batch_size is not None
        self_check(model, config.trainer.batch_size)
    if config.find_learning_rate:
        return _search(config, model, parts, data, directory, group)
    configuration = dataclasses.asdict(config)
    states = StateFolder(directory, configuration, config.trainer.keep_states)
    if config.resume is not None:
        saved = group.of_first(lambda: read_state(directory))
        progress = restore(*saved, model, parts.optimizer)
        check_resumable(progress, data, model.objective)
        assert config.trainer.epochs is not None  # chosen, if it was not given
        is_done = progress.epoch >= config.trainer.epochs
        where = "all epochs are done" if is_done else f"in epoch {progress.epoch + 1}"
        log.info(f"resuming after step {progress.step}, {where}")
    else:
        progress = begin(configuration, data, model.objective)
    group.agree(images=json.dumps(progress.data))
    model.metadata = {"run": progress.run, "classes": list(data.classes)}
    if data.how is not None:
        model.metadata |= {data.how.KEY: data.how.plain()}
    with Board(directory, progress.step, is_silent=not group.is_first) as board:
        if config.resume is None:
            board.configuration(OmegaConf.to_yaml(configuration))
            board.hyperparameters(hyperparameters)
            board.flush()
            if group.is_first:
                states.save(model, parts.optimizer, progress)
        if config.trainer.pretrain_epochs and progress.step == 0:
            assert isinstance(model, Autoencoder)
            pretrain(model, data, config, directory, group)
        trainer = build_trainer(
            config, model, parts, data, board, states, progress, after_epoch, group
        )
        baselines = None
        if group.is_first and not isinstance(model, Classifier):
            baselines = Baselines.fit(model, data.train, parts.corruption)
            if progress.step == 0:
                _show_start(trainer, parts.corruption, baselines)
        trainer.fit()
        best = group.of_first(lambda: load(directory / BEST, backend=model.backend))
        figures: dict[str, float] = {}
        if not isinstance(best, Classifier):
            size = trainer.batch_size
            quality = measure_quality(best, data.test, size, Use.TEST, parts.corruption, group)
        if group.is_first and isinstance(best, Classifier):
            figures = summarise(best, data, progress, config.trainer, directory, board)
        elif group.is_first:
            assert baselines is not None
            summary = Summary(
                best,
                data,
                baselines,
                quality,
                progress,
                parts.corruption,
                config.trainer,
                config.score,
                trainer.stopped,
            )
            figures = summary.write(directory, board)
    if config.trainer.drop_states and group.is_first:
        states.drop()
    return Result(directory, best, group.of_first(lambda: figures))


def _announce(config: Config, model: Model, data: Splits, reasons: Sequence[str]) -> None:
    """Log what will be trained on what, and why so."""
    for note in data.notes:
        log.info(note)
    log.info(
        f"{data.name}: {len(data.train):,} training, {len(data.validation):,} validation, "
        f"{len(data.test):,} test {noun(data.test)}s"
    )
    for reason in reasons:
        log.info(reason)
    log.info(describe(model))
    if config.device == "auto" and model.device == "cpu":
        log.info(f"device=auto chose the CPU: {missing_gpu()}")
    for warning in oversized(model, len(data.train)):
        log.warning(f"warning: {warning}")


def _show_start(trainer: Trainer, corruption: Corruption, baselines: Baselines) -> None:
    """Log the errors of model and baselines on the validation images, before the first step."""
    split, size, use = trainer.data.validation, trainer.batch_size, Use.VALIDATION
    error = measure(trainer.model, split, size, use, corruption).mse
    others = baselines.errors(split, use, size)
    labels = baselines.labels()
    compared = ", ".join(
        f"{labels[name]} {others[f'{name}_mse']:.5f}" for name in labels if name != "mean_image"
    )
    shown = kind(split.shape)
    log.info(f"before training: squared error {error:.5f} on validation {shown}s; {compared}")


def _search(
    config: Config, model: Model, parts: Parts, data: Splits, directory: Path, group: Group
) -> Result:
    """Search for a learning rate instead of training."""
    step = build_step(config, model, parts, group)
    size, seed = config.trainer.batch_size, config.seed
    assert size is not None
    found = find_learning_rate(step, data.train, build_task(config, parts, data), size, seed)
    path = directory / "learning_rate.png"
    if group.is_first:
        write_bytes(path, found.png())
    log.info(
        f"\nThe loss fell fastest at a learning rate of {found.steepest:.1e}, and was lowest at "
        f"{found.rates[found.losses.argmin()]:.1e}; see {path}.\n"
        f"Try: optimizer.learning_rate={found.steepest:.1e}"
    )
    return Result(directory, model, {"validation_loss": inf, "learning_rate": found.steepest})
