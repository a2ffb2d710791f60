"""Where Hydra comes in: a configuration is composed, and a run, or a sweep of runs, is started.

`main` is the command (``python train.py``, ``convae train``), `train` the function for scripts and
notebooks. Hydra's files are in `convae.configs`, the folder ``configs/`` of the repository.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.plugin import Plugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from convae.app import launch, search, sweeps, workers
from convae.app.arguments import MULTIRUN, ordered, resume_command
from convae.app.overrides import (
    CONFIGS,
    check_composition,
    check_values,
    culprit,
    hydra_of_its_own,
    message_of,
    mistake,
    names_used_folder,
    resumes_sweep,
    search_path,
)
from convae.app.run import AfterEpoch, Result, run
from convae.configuration import Config, from_plain
from convae.errors import UserError
from convae.files import write_bytes
from convae.processes import ALONE, Group, PeerError
from convae.training.joining import join
from convae.training.pretraining import STAGES
from convae.training.signals import Interrupted, interrupt, is_stop_requested, request_stop
from convae.training.state import has_state, read_state

log = logging.getLogger("convae")

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
        If SIGINT, SIGTERM, SIGHUP or SIGUSR1 was received; the state is saved.
    """
    group = join()
    named = any(word.startswith(launch.RUN) for word in overrides)
    group.agree(overrides=json.dumps(list(overrides)))
    given = group.of_first(lambda: launch.settle(overrides))
    if message := mistake(given):
        raise UserError(message)
    _fresh_folders.clear()
    if config_dir is not None:
        given.append(search_path(config_dir))
    with (
        _folders_of(group),
        hydra_of_its_own(),
        initialize_config_module(CONFIGS, version_base="1.3"),
    ):
        try:
            composed = compose("config", overrides=given, return_hydra_config=True)
            HydraConfig.instance().cfg = composed  # type: ignore[assignment]
            hydra_files = composed.hydra.output_subdir
            if composed.resume is None:
                check_values(composed)  # before a folder is made
            wanted = Path(composed.hydra.run.dir)
            with open_dict(composed):
                hydra_node = composed.pop("hydra")
        except (UserError, FileNotFoundError):
            raise
        except Exception as error:  # Hydra raises what Python does, for overrides of wrong types
            raise UserError(culprit(given, error) or message_of(error)) from error
    is_chosen = composed.resume is not None or str(wanted) in _fresh_folders.values()
    if not is_chosen and not named:
        wanted = group.of_first(lambda: new_folder(wanted))
    if not group.is_first:
        with _logging_nothing():
            return _run_composed(composed, wanted, hydra_node, group)
    directory = wanted
    if hydra_files is not None:
        for name, content in {"config": composed, "overrides": hydra_node.overrides.task}.items():
            file = directory / hydra_files / f"{name}.yaml"
            file.parent.mkdir(parents=True, exist_ok=True)
            OmegaConf.save(content, file)
    with _logging_to(directory / "train.log"):
        return _run_composed(composed, directory, hydra_node, group)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: ``[group=option] [key=value] ... [-m] [hydra's flags]``."""
    if arguments is not None:
        sys.argv = ["convae train", *arguments]
    group, given = ALONE, sys.argv[1:]
    full = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra passes errors on; what is shown is decided here
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    try:
        group = join()
        words = ordered(given)
        group.agree(arguments=json.dumps(words))
        given = group.of_first(lambda: launch.settle(words))
        sys.argv[1:] = given if group.is_first else ordered([*given, *launch.SILENT])
        # Hydra takes sweepers from its own package of plugins only: theirs are names in it
        sweepers: dict[str, type[Plugin]] = {sweeps.GRID: sweeps.Grid, search.SEARCH: search.Search}
        Plugins.instance().class_name_to_class.update(sweepers)  # imports all plugins
        if message := mistake(given) or names_used_folder(given) or resumes_sweep(given):
            launch.fail(f"error: {message}", group)
        if group.size > 1 and MULTIRUN & set(given):
            raise UserError("-m: each run of a sweep has processes of its own; start it without")
        check_composition(given)
        with _folders_of(group):
            _hydra_main()
    except KeyboardInterrupt:
        _say_stopped()
    except PeerError as error:
        launch.fail_of_peer(error, group)
    except MISTAKES as error:
        if full:
            raise
        of_hydra = isinstance(error, (HydraException, OmegaConfBaseException))
        message = (culprit(given, error) if of_hydra else None) or message_of(error)
        shown = f"error: {message}\n(HYDRA_FULL_ERROR=1 shows where it was raised)"
        launch.fail(shown, group)
    except Exception as error:  # for overrides of wrong types Hydra raises what Python does
        if is_stop_requested():  # what an import makes of Ctrl-C
            _say_stopped()
        its_fault = culprit(given, error)
        if full or its_fault is None:  # a bug of ours
            group.is_first_to_fail(repr(error))
            raise
        launch.fail(f"error: {its_fault}", group)


def _say_stopped() -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # once more is no reason for a traceback
    request_stop(0)
    print("stopped; a run that has begun resumes with resume=<its folder>", file=sys.stderr)
    sys.exit(130)


@hydra.main(version_base="1.3", config_path=f"pkg://{CONFIGS}", config_name="config")
def _hydra_main(composed: DictConfig) -> float | None:
    """Do one run or one job of a sweep; returns the best validation loss, if there is one."""
    directory = Path(HydraConfig.get().runtime.output_dir)
    if directory.is_relative_to(Path.cwd()):
        directory = directory.relative_to(Path.cwd())
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        with workers.following(Path(HydraConfig.get().sweep.dir)) as is_wanted:
            return _job(composed, directory) if is_wanted else None
    try:
        result = _run_composed(composed, directory, HydraConfig.get(), _group)
    except Interrupted as stop:
        if _group.is_first:
            _say_how_to_resume(stop, directory)
        sys.exit(128 + stop.number)
    if _group.is_first:
        sweeps.update_table(directory.parent)
    return result.figures["validation_loss"]


def _job(composed: DictConfig, directory: Path) -> float | None:
    """Do one job of a sweep; if it fails, the sweep's other jobs and its table are not lost."""
    try:
        with search.reporting(HydraConfig.get()) as after_epoch:
            result = _run_composed(composed, directory, HydraConfig.get(), ALONE, after_epoch)
        return result.figures["validation_loss"]
    except Interrupted as stop:  # not an error for Hydra, which would start the next job
        _say_how_to_resume(stop, directory)
        if not workers.is_worker():  # it must not take the others with it
            sys.exit(128 + stop.number)
    except MISTAKES as error:
        log.error(f"error: {message_of(error)}")
        _note_error(directory, message_of(error))
    except Exception as error:  # of one job: the others are done, and its traceback is logged
        log.exception("error: a bug of convae; the sweep continues")
        _note_error(directory, repr(error))
    return None


def _say_how_to_resume(stop: Interrupted, directory: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the state is saved
    print(f"{stop}; to resume: {resume_command(directory)}", file=sys.stderr)


def _note_error(directory: Path, message: str) -> None:
    """Leave a job's error in its folder; a full disk may be the error itself."""
    with suppress(OSError):
        write_bytes(directory / sweeps.ERROR, f"{message}\n".encode())


def _run_composed(
    composed: DictConfig,
    directory: Path,
    hydra_node: Any,
    group: Group,
    after_epoch: AfterEpoch | None = None,
) -> Result:
    """Turn a composed configuration, or that of the run to resume, into objects, and run it."""
    overrides = hydra_node.overrides.task
    if composed.resume is not None:
        composed = group.of_first(lambda: _saved_configuration(directory, overrides))
    config = OmegaConf.to_object(composed)
    assert isinstance(config, Config)
    shown = _hyperparameters(hydra_node.runtime.choices, overrides)
    return run(config, directory, shown, after_epoch, group)


def _hyperparameters(
    choices: Mapping[str, str], overrides: Sequence[str]
) -> dict[str, float | str]:
    """Collect what tells a run from others: dataset, model, and what the user said."""
    values: dict[str, float | str] = {name: choices[name] for name in ("dataset", "model")}
    for said in overrides:
        key, _, text = said.partition("=")
        try:
            values[key] = float(text)
        except ValueError:
            values[key] = text
    return values


def _saved_configuration(directory: Path, overrides: Sequence[str]) -> DictConfig:
    """Take a run's configuration from its state, with this command's overrides applied."""
    _, description = read_state(directory)
    saved = OmegaConf.structured(from_plain(description["configuration"]))
    for change in OverridesParser.create().parse_overrides(list(overrides)):
        key = change.key_or_group
        if OmegaConf.is_dict(OmegaConf.select(saved, key)):
            raise UserError(
                f"{change.input_line}: a resumed run keeps its {key}; "
                f"change single values of it, such as {key}.<key>=..."
            )
        OmegaConf.update(saved, key, change.value())
        if key != "resume":
            log.info(f"resuming with {change.input_line}")
    assert isinstance(saved, DictConfig)
    return saved


_fresh_folders: dict[str, str] = {}
"""The folders made for the run that begins, by the names that they were to have."""

_group: Group = ALONE
"""The processes of the run that begins: Hydra's resolvers take no other argument."""


@contextmanager
def _folders_of(group: Group) -> Iterator[None]:
    """Let folders be made by the first process of a group, for a ``with`` block."""
    global _group
    _group = group
    try:
        yield
    finally:
        _group = ALONE


def _run_directory(resume: str | None, fresh: str) -> str:
    """Choose the folder of a run: that of the run to resume, or a new one, made at once."""
    if resume is None:
        key = fresh if _group.size == 1 else ""  # which has the time, others in other processes
        if key not in _fresh_folders:  # Hydra asks several times
            _fresh_folders[key] = _group.of_first(lambda: str(new_folder(Path(fresh))))
        return _fresh_folders[key]
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


def new_folder(wanted: Path) -> Path:
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
def _logging_nothing() -> Iterator[None]:
    """Leave messages to another process, for a ``with`` block."""
    disabled, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = disabled


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
