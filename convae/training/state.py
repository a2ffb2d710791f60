"""The state of a run on disk: all that it takes to resume as if nothing had happened."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from convae.configuration import Config, from_plain
from convae.data.splits import Splits
from convae.engine import to_numpy
from convae.errors import UserError, VersionError, check_choice, require_keys
from convae.keys import override
from convae.models import checkpoint
from convae.models.kinds import KINDS
from convae.models.loading import BEST, LAST, parameter_shapes_of
from convae.models.model import Model
from convae.models.parameters import flat_size
from convae.training.choices import left_open
from convae.training.optimizers import OPTIMIZERS, Optimizer
from convae.training.progress import Progress
from convae.training.schedules import SCHEDULES

log = logging.getLogger("convae")

LAYOUT = 5
"""What states hold, and in which order; a state of another layout is refused."""


@dataclass(frozen=True)
class StateFolder:
    """Where a run's states are saved: its folder, the newest of them.

    Parameters
    ----------
    directory : Path
        The run's folder.
    configuration : mapping
        The run's configuration in plain values, kept in every state.
    keep : int
        How many states are kept: the newest, and others to fall back on.
    """

    directory: Path
    configuration: Mapping[str, Any]
    keep: int = 2

    def save(self, model: Model, optimizer: Optimizer, progress: Progress) -> Path:
        """Write a state beside the earlier ones; they are untouched if it cannot be written."""
        arrays = {f"model.{name}": to_numpy(array) for name, array in model.parameters.items()}
        arrays |= {f"optimizer.{name}": to_numpy(array) for name, array in optimizer.state.items()}
        arrays |= {f"state.{name}": to_numpy(array) for name, array in model.state.items()}
        if progress.average is not None:
            arrays["average"] = progress.average
        arrays |= {f"best.{name}": array for name, array in (progress.best or {}).items()}
        description = {
            "layout": LAYOUT,
            "kind": model.kind,
            "model": model.configuration(),
            "optimizer_steps": optimizer.steps,
            "progress": progress.plain(),
            "configuration": self.configuration,
        }
        path = self.directory / _name(progress.step)
        checkpoint.write(path, arrays, description)
        older = [state for state in _states(self.directory) if state.name < path.name]
        self._remove(older[self.keep - 1 :])
        return path

    def drop(self) -> None:
        """Remove all states of a run that has ended."""
        self._remove(_states(self.directory))

    @staticmethod
    def _remove(states: list[Path]) -> None:
        for path in states:
            if path.is_symlink() or not path.is_dir():  # a folder is nothing that a run has written
                path.unlink(missing_ok=True)


def _name(step: int) -> str:
    """Name the file of the state after so many steps."""
    return f"state-{step:09d}.safetensors"


def begin(configuration: Mapping[str, Any], data: Splits, loss: str) -> Progress:
    """Return the start of a run.

    Its id is a digest of all that decides its result, its configuration and its images, so that a
    repeated run has equal files.
    """
    progress = Progress.fresh(configuration["seed"])
    progress.data, progress.loss = data.fingerprints(), loss
    content = json.dumps([configuration, progress.data], sort_keys=True).encode()
    progress.run = hashlib.blake2b(content, digest_size=8).hexdigest()
    progress.schedule = _fresh_schedule(configuration["schedule"])
    return progress


def _fresh_schedule(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a schedule remembers before the first epoch."""
    return SCHEDULES[configuration["name"]]().state()


def _states(directory: Path) -> list[Path]:
    """List a run's states, newest first."""
    pattern = re.compile(r"state-\d{9}\.safetensors")
    return sorted((p for p in directory.glob("state-*") if pattern.fullmatch(p.name)), reverse=True)


def has_state(directory: Path) -> bool:
    """Tell whether a folder holds a state of a run, damaged or not."""
    return bool(_states(directory))


def is_used(directory: Path) -> bool:
    """Tell whether a folder holds a run: states, or what is left of one without."""
    return has_state(directory) or any((directory / name).exists() for name in (BEST, LAST))


def used_folder(directory: str | os.PathLike[str]) -> str:
    """Say that a folder holds a run already, and what to do."""
    if not has_state(Path(directory)):
        return (
            f"hydra.run.dir: {os.fspath(directory)!r} holds a run already, whose states are gone; "
            "choose another folder"
        )
    return (
        f"hydra.run.dir: {os.fspath(directory)!r} holds a run already; resume it with "
        f"{shlex.quote(override('resume', directory))}, or choose another folder"
    )


Saved: TypeAlias = tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]
"""A state's arrays, and the description beside them."""


def read_state(directory: str | os.PathLike[str]) -> Saved:
    """Read the newest intact state of a run; what is damaged is stepped over with a warning."""
    folder = Path(directory)
    states = _states(folder)
    if not states:
        raise FileNotFoundError(
            f"resume: {os.fspath(directory)!r} holds no state of a run; expected the folder of a "
            "run, such as one under outputs/"
        )
    for path in states:
        try:
            arrays, description = checkpoint.read(path)
            _check_layout(description)
            _check(arrays, description)
            if path.name != _name(description["progress"]["step"]):
                raise UserError("it is of another step than its name says")
        except VersionError:
            raise
        except (OSError, UserError) as error:
            log.warning(f"warning: {path} is stepped over: {error}")
            continue
        return arrays, description
    raise UserError(f"resume: all states in {os.fspath(directory)!r} are damaged")


def _check_layout(description: Mapping[str, Any]) -> None:
    """Refuse a state of another version: older states beside it are no better."""
    layout = description.get("layout")
    if type(layout) is not int or layout < 1:
        raise UserError(f"its layout is {layout!r}")
    if layout > LAYOUT:
        raise VersionError("resume: written by a newer version of convae; update convae")
    if layout < LAYOUT:
        raise VersionError(
            "resume: written by an older version of convae, whose states have another layout; "
            "resume it with that version"
        )


def _check(arrays: Mapping[str, np.ndarray[Any, Any]], description: Mapping[str, Any]) -> None:
    """Refuse a state with missing, wrong or non-finite content, before anything is built of it."""
    known = ("layout", "kind", "model", "optimizer_steps", "progress", "configuration")
    require_keys("its description", description, known)
    progress = Progress.from_plain(description["progress"])
    try:
        shapes = parameter_shapes_of(description["model"])
        dtype = np.dtype(description["model"]["dtype"])
        kind = KINDS[description["kind"]]
        loss = description["model"].get("loss", kind.kind)
        own = kind.state_shapes(description["model"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"its model is wrong: {error!r}") from None
    config = from_plain(description["configuration"])
    if left := left_open(config):
        raise UserError(f"its configuration says nothing of {', '.join(left)}")
    if progress.loss != loss:
        raise UserError(f"progress.loss: {progress.loss!r} is not its model's")
    if description["optimizer_steps"] is True or description["optimizer_steps"] != progress.step:
        raise UserError(f"optimizer_steps: {description['optimizer_steps']!r} is not its step")
    expected = {f"model.{name}": shape for name, shape in shapes.items()}
    if progress.best_loss != inf:
        expected |= {f"best.{name}": shape for name, shape in shapes.items()}
    expected |= {name: (flat_size(shapes),) for name in _needed_vectors(config, progress)}
    types = {f"state.{name}": np.dtype(name_of) for name, (_, name_of) in own.items()}
    expected |= {f"state.{name}": tuple(shape) for name, (shape, _) in own.items()}
    for name, array in arrays.items():
        if expected.pop(name, None) != array.shape or array.dtype != types.get(name, dtype):
            raise UserError(f"its array {name} is {array.dtype} {array.shape}, which does not fit")
        if not np.isfinite(array).all() or (name.endswith("second_moment") and array.min() < 0):
            raise UserError(f"its array {name} has values that it cannot have")
    if expected:
        raise UserError(f"its arrays {', '.join(expected)} are missing")


def _needed_vectors(config: Config, progress: Progress) -> list[str]:
    """Name the vectors that a run of a configuration has; check what its schedule remembers."""
    check_choice("configuration.schedule.name", config.schedule.name, SCHEDULES)
    check_choice("configuration.optimizer.name", config.optimizer.name, OPTIMIZERS)
    schedule: Any = SCHEDULES[config.schedule.name]
    optimizer: Any = OPTIMIZERS[config.optimizer.name]
    fields = [field.name for field in dataclasses.fields(schedule) if not field.init]
    require_keys("progress.schedule", progress.schedule, fields)
    if not progress.step:
        return []
    average = [] if config.trainer.ema is None else ["average"]
    return [*(f"optimizer.{name}" for name in optimizer.vectors), *average]


def restore(
    arrays: Mapping[str, np.ndarray[Any, Any]],
    description: Mapping[str, Any],
    model: Model,
    optimizer: Optimizer,
) -> Progress:
    """Restore a model and an optimizer from a state, and return how far the run had come."""
    parameters = {f"model.{name}": array for name, array in model.parameters.items()}
    shapes = {name: array.shape for name, array in arrays.items() if name.startswith("model.")}
    if shapes != {name: array.shape for name, array in parameters.items()}:
        raise UserError("resume: the state belongs to another model; do not change the model")
    if description["kind"] != model.kind:
        raise UserError(f"resume: the state is of a {description['kind']}; do not change the model")
    for name in ("layers", "output_activation"):
        own = json.loads(json.dumps(model.configuration()[name]))
        if description["model"].get(name) != own:
            raise UserError(f"resume: the state's model has another model.{name}; do not change it")
    if description["model"]["dtype"] != model.dtype:
        raise UserError(
            f"resume: the state is of {description['model']['dtype']}; do not change dtype"
        )
    vectors = {name for name in arrays if name.startswith("optimizer.")}
    if not vectors <= {f"optimizer.{name}" for name in optimizer.vectors}:
        raise UserError(
            "resume: the state belongs to another optimizer; do not change optimizer.name"
        )
    for name, array in parameters.items():
        array[...] = model.xp.asarray(arrays[name])
    for name in model.state:
        kept = arrays[f"state.{name}"]
        model.state[name] = kept if kept.dtype == "int64" else model.xp.asarray(kept)
    for name in vectors:
        optimizer.state[name.removeprefix("optimizer.")] = model.xp.array(arrays[name])
    optimizer.steps = description["optimizer_steps"]
    progress = Progress.from_plain(description["progress"])
    progress.average = arrays.get("average")
    best = {n.removeprefix("best."): a for n, a in arrays.items() if n.startswith("best.")}
    progress.best = best or None
    return progress


def check_resumable(progress: Progress, data: Splits, loss: str) -> None:
    """Compare a state with what the run is resumed with.

    Other images, or another division of them, are refused, since training images could become test
    images. Another loss makes the best loss so far meaningless, so the search for the best epoch
    starts again.
    """
    found = data.fingerprints()  # reads every pixel in memory: once
    if progress.data and progress.data != found:
        changed = [name for name in found if progress.data.get(name) != found[name]]
        raise UserError(
            f"resume: the {', '.join(changed)} images are not those of the run's beginning (files, "
            "seed or settings of the dataset changed, perhaps memory_mb), so training images could "
            "become test images; restore them, or start a new run"
        )
    if progress.loss and progress.loss != loss:
        log.warning(
            f"warning: the loss is now {loss!r} instead of {progress.loss!r}: the best epoch is "
            "searched for from here on"
        )
        progress.best_loss, progress.best_epoch, progress.best = inf, 0, None
        progress.searched_from = progress.epoch
    progress.data, progress.loss = found, loss
