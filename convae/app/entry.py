"""Where Hydra comes in: a configuration is composed, and a run, or a sweep of runs, is started.

`main` is the command (``python train.py``, ``convae train``), `train` the function for scripts and
notebooks. Hydra's files are in `convae.configs`, the folder ``configs/`` of the repository.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from math import inf
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from convae.app.run import Result, run
from convae.configuration import Config, unknown_key
from convae.errors import UserError
from convae.training.pretraining import STAGES
from convae.training.signals import Interrupted
from convae.training.state import has_state, read_state, used_folder

log = logging.getLogger("convae")

CONFIGS = "convae.configs"
"""The package with the configuration's files."""

MISTAKES = (UserError, OSError, MemoryError, HydraException, OmegaConfBaseException)
"""What a user can put right: shown as a message. Everything else keeps its traceback."""


def train(
    overrides: Sequence[str] = (), config_dir: str | os.PathLike[str] | None = None
) -> Result:
    """Do a run, as ``convae train`` does it; any number of times in one process.

    Parameters
    ----------
    overrides : sequence of str
        What the command line would say: ``["dataset=mnist", "trainer.epochs=5"]``.
    config_dir : path, optional
        A folder with configuration files of your own, searched beside the package's.

    Returns
    -------
    Result
        The run's folder, its best model and its figures.

    Raises
    ------
    UserError
        If the configuration, the data or the device is at fault.
    OSError
        If files cannot be read or written.
    Interrupted
        If SIGINT or SIGTERM was received; the state is saved.
    """
    given = list(overrides)
    if message := unknown_key(given):
        raise UserError(message)
    if config_dir is not None:
        given.append(f"hydra.searchpath=[file://{Path(config_dir).resolve()}]")
    with _hydra_of_its_own(), initialize_config_module(CONFIGS, version_base="1.3"):
        try:
            composed = compose("config", overrides=given, return_hydra_config=True)
            HydraConfig.instance().cfg = composed  # type: ignore[assignment]
            wanted = Path(composed.hydra.run.dir)
            hydra_files = composed.hydra.output_subdir
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(_message(error)) from error
    directory = wanted if composed.resume is not None else _new_folder(wanted)
    with open_dict(composed):
        hydra_node = composed.pop("hydra")
    for name, content in {"config": composed, "overrides": hydra_node.overrides.task}.items():
        file = directory / hydra_files / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(content, file)
    with _logging_to(directory / "train.log"):
        return _run_composed(composed, directory, hydra_node)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: ``[group=option] [key=value] ... [-m] [hydra's flags]``."""
    if arguments is not None:
        sys.argv = ["convae train", *arguments]
    message = (
        unknown_key(sys.argv[1:]) or _used_folder(sys.argv[1:]) or _resumed_sweep(sys.argv[1:])
    )
    if message:
        sys.exit(f"error: {message}")
    full = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra passes errors on; what is shown is decided here
    try:
        _hydra_main()
    except KeyboardInterrupt:
        print("stopped; a run that has begun resumes with resume=<its folder>", file=sys.stderr)
        sys.exit(130)
    except MISTAKES as error:
        if full:
            raise
        sys.exit(f"error: {_message(error)}\n(HYDRA_FULL_ERROR=1 shows where it was raised)")


@hydra.main(version_base="1.3", config_path=f"pkg://{CONFIGS}", config_name="config")
def _hydra_main(composed: DictConfig) -> float:
    """Do one run or one job of a sweep; returns the best validation loss."""
    directory = Path(HydraConfig.get().runtime.output_dir)
    if directory.is_relative_to(Path.cwd()):
        directory = directory.relative_to(Path.cwd())
    is_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        result = _run_composed(composed, directory, HydraConfig.get())
        return result.figures["validation_loss"]
    except Interrupted as stop:  # not an error for Hydra, which would start the next job
        print(f"{stop}; to resume: {command()} resume={directory}", file=sys.stderr)
        sys.exit(128 + stop.number)
    except MISTAKES as error:
        if not is_sweep:
            raise
        log.error(f"error: {_message(error)}")
    except Exception:
        if not is_sweep:
            raise
        log.exception("error: a bug of convae; the sweep continues")
    return inf  # the sweep's other jobs and its table are not lost


def _run_composed(composed: DictConfig, directory: Path, hydra_node: Any) -> Result:
    """Turn a composed configuration, or that of the run to resume, into objects, and run it."""
    overrides = hydra_node.overrides.task
    if composed.resume is not None:
        composed = _saved_configuration(directory, overrides)
    config = OmegaConf.to_object(composed)
    assert isinstance(config, Config)
    return run(config, directory, _hyperparameters(hydra_node.runtime.choices, overrides))


def _hyperparameters(
    choices: Mapping[str, str], overrides: Sequence[str]
) -> dict[str, float | str]:
    """Collect what tells a run from others: dataset, model, and what the user said."""
    values: dict[str, float | str] = {name: choices[name] for name in ("dataset", "model")}
    for override in overrides:
        key, _, text = override.partition("=")
        try:
            values[key] = float(text)
        except ValueError:
            values[key] = text
    return values


def _saved_configuration(directory: Path, overrides: Sequence[str]) -> DictConfig:
    """Take a run's configuration from its state, with this command's overrides applied."""
    _, description = read_state(directory)
    saved = OmegaConf.merge(OmegaConf.structured(Config), description["configuration"])
    assert isinstance(saved, DictConfig)
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        if OmegaConf.is_dict(OmegaConf.select(saved, key)):
            raise UserError(
                f"{override.input_line}: a resumed run keeps its {key}; "
                f"change single values of it, such as {key}.<key>=..."
            )
        OmegaConf.update(saved, key, override.value())
        if key != "resume":
            log.info(f"resuming with {override.input_line}")
    return saved


def _run_directory(resume: str | None, fresh: str) -> str:
    """Choose the folder of a run: that of the run to resume, or a new one."""
    if resume is None:
        return fresh
    if not resume or not has_state(Path(resume)):
        raise FileNotFoundError(
            f"resume: {resume!r} holds no state of a run; expected the folder of a run, such as "
            "one under outputs/"
        )
    if Path(resume).resolve().parent.name == STAGES:
        raise UserError(f"resume: {resume!r} is a stage of pretraining; resume its run's folder")
    return resume


ConfigStore.instance().store(name="schema", node=Config)
OmegaConf.register_new_resolver("run_directory", _run_directory, replace=True)
OmegaConf.register_new_resolver(
    "hydra_files", lambda resume: ".hydra" if resume is None else ".hydra/resumed", replace=True
)


def _used_folder(arguments: Sequence[str]) -> str | None:
    """Refuse a folder that holds a run, before Hydra writes its files into it."""
    key = "hydra.run.dir="
    for argument in arguments:
        folder = argument.removeprefix(key).strip("'\"")
        if argument.startswith(key) and has_state(Path(folder)):
            return used_folder(folder)
    return None


def _resumed_sweep(arguments: Sequence[str]) -> str | None:
    """Refuse to resume with -m."""
    is_sweep = any(argument in ("-m", "--multirun") for argument in arguments)
    if is_sweep and any(argument.startswith("resume=") for argument in arguments):
        return "resume: one run resumes at a time; omit -m"
    return None


def command() -> str:
    """Name the command that was called, for messages that suggest another call."""
    name = Path(sys.argv[0]).name
    return "convae train" if name.startswith("convae") else "python train.py"


def _message(error: BaseException) -> str:
    """Put an error and its cause into lines."""
    causes = [str(error), str(error.__cause__ or "")]
    lines = [line for cause in causes for line in cause.splitlines() if line.strip()]
    if isinstance(error, MemoryError):
        lines.append("out of memory: lower trainer.batch_size, or the model's filters")
    return "\n".join(lines) or repr(error)


@contextmanager
def _hydra_of_its_own() -> Iterator[None]:
    """Set another use of Hydra in this process aside, for a ``with`` block."""
    hydra_of_others, config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = hydra_of_others
        HydraConfig.instance().cfg = config


def _new_folder(wanted: Path) -> Path:
    """Create a run's folder; a number is added to the name if it exists."""
    wanted.parent.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        path = wanted if number == 1 else wanted.with_name(f"{wanted.name}_{number}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise AssertionError("unreachable")


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Send messages to the screen and to a file, for a ``with`` block."""
    screen, file = logging.StreamHandler(sys.stdout), logging.FileHandler(path)
    screen.setFormatter(logging.Formatter("%(message)s"))
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level, propagate = log.level, log.propagate
    log.setLevel(logging.INFO)
    log.propagate = False
    for handler in (screen, file):
        log.addHandler(handler)
    try:
        yield
    finally:
        for handler in (screen, file):
            log.removeHandler(handler)
            handler.close()
        log.setLevel(level)
        log.propagate = propagate
