"""A search by Optuna: the values of each job are chosen by the results of the jobs before it.

``hydra/sweeper=search`` selects it; `configs/hydra/sweeper/search.yaml` has its keys.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from math import ceil, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from omegaconf import DictConfig

from convae.app import workers
from convae.app.arguments import command, divide
from convae.app.run import AfterEpoch
from convae.app.summary import read_figures
from convae.app.sweeps import JobSweeper, sweeping
from convae.errors import MissingPackageError, UserError, check_choice, check_range
from convae.files import locked
from convae.keys import override

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage

log = logging.getLogger("convae")

SEARCH = "hydra_plugins.convae.Search"
"""Name of `Search` for Hydra."""

SAMPLERS = {"tpe": "TPESampler", "random": "RandomSampler"}
"""Optuna's classes, by their names here."""

OLDEST = 5
"""The oldest version of Optuna that works."""

LOCK_SECONDS = 60
"""How long a job waits for another one that writes into the same SQLite file."""


class Search(JobSweeper):
    """Asks Optuna for the values of each job, and tells it the job's validation loss.

    Parameters
    ----------
    n_trials : int
        How many jobs, in addition to those that the study has.
    n_jobs : int
        How many at a time; the launcher decides whether they run at the same time.
    storage : str
        Optuna's URL of the database that keeps the study.
    study_name : str
        A study of this name in the database goes on.
    sampler : mapping
        ``name``, one of `SAMPLERS`, and ``seed``.
    pruning : mapping, optional
        ``startup_trials`` and ``warmup_epochs`` of Optuna's MedianPruner; without it no job is
        pruned.
    params : mapping, optional
        Values by key, in the syntax of the command line, which overrides them.
    """

    def __init__(
        self,
        n_trials: int,
        n_jobs: int,
        storage: str,
        study_name: str,
        sampler: Mapping[str, Any],
        pruning: Mapping[str, int] | None,
        params: Mapping[str, Any] | None,
    ) -> None:
        self.n_trials = n_trials
        self.n_jobs = n_jobs
        self.storage = storage
        self.study_name = study_name
        self.sampler = sampler
        self.pruning = pruning
        self.params = params

    def sweep(self, arguments: list[str]) -> None:
        """Do the jobs."""
        _check_installed()
        self._check_values()
        last = {o.get_key_element(): o for o in self.parse(self.params, arguments)}
        space = {key: distribution(o) for key, o in last.items() if o.is_sweep_override()}
        fixed = [str(o.input_line) for o in last.values() if not o.is_sweep_override()]
        if not space:
            raise UserError(
                "hydra/sweeper=search: no key has several values to choose from; give one, such as "
                "'optimizer.learning_rate=tag(log,interval(0.0005,0.01))'"
            )
        self.validate_batch_is_legal([[*fixed, *values] for values in _examples(space)])
        with sweeping(self.config, self.launcher) as jobs, database(self.storage) as storage:
            study = self._open_study(storage, space, jobs.directory)
            left = self.n_trials
            while left:
                trials = [study.ask(space) for _ in range(min(left, self.n_jobs))]
                left -= len(trials)
                first = max(trials[0].number, jobs.free_number())
                for number, trial in enumerate(trials, first):
                    trial.set_user_attr("sweep", os.path.abspath(jobs.directory))
                    trial.set_user_attr("job", number)
                    values = [f"{key}={value}" for key, value in trial.params.items()]
                    jobs.planned[number] = [*fixed, *values]
                jobs.continuation = _continuation(jobs.directory, left) if left else ""
                numbers = range(first, first + len(trials))
                losses = jobs.launch([jobs.planned[number] for number in numbers], numbers)
                for trial, loss in zip(trials, losses, strict=True):
                    _tell(study, trial, loss)

    def _check_values(self) -> None:
        check_range("hydra.sweeper.n_trials", self.n_trials, at_least=1, integer=True)
        self.n_jobs = workers.effective(self.n_jobs, "hydra.sweeper.n_jobs")
        if self.config.hydra.job.chdir:
            raise UserError("hydra.job.chdir: a search needs its jobs in one folder; leave it out")
        if not isinstance(self.sampler, Mapping | DictConfig):
            raise UserError(
                f"hydra.sweeper.sampler: {self.sampler!r}; expected a name and a seed, such as "
                "hydra.sweeper.sampler.name=random"
            )
        check_choice("hydra.sweeper.sampler.name", self.sampler["name"], SAMPLERS)
        check_range("hydra.sweeper.sampler.seed", self.sampler["seed"], at_least=0, integer=True)
        for name, example in {"storage": "sqlite:///studies.db", "study_name": "search"}.items():
            if not isinstance(getattr(self, name), str):
                raise UserError(
                    f"hydra.sweeper.{name}: {getattr(self, name)!r} is not a name; expected one "
                    f"such as {example}"
                )
        _pruner(self.pruning)

    def _open_study(
        self, storage: BaseStorage, space: Mapping[str, BaseDistribution], directory: Path
    ) -> Study:
        """Create the study, or go on with it."""
        import optuna
        from optuna.distributions import check_distribution_compatibility

        study = optuna.create_study(
            storage=storage,
            study_name=self.study_name,
            direction="minimize",
            pruner=_pruner(self.pruning),
            load_if_exists=True,
        )
        for trial in study.trials:
            for key in trial.distributions.keys() & space.keys():
                try:
                    check_distribution_compatibility(trial.distributions[key], space[key])
                except ValueError as error:
                    raise UserError(
                        f"{key}: the study {self.study_name!r} is there, with other values "
                        f"({error}); choose another hydra.sweeper.study_name"
                    ) from None
        _settle(study, directory)
        states = [trial.state.name.lower() for trial in study.trials]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        log.info(
            f"Study {self.study_name!r} in {self.storage}: "
            f"{len(states)} trials so far{f' ({counts})' if counts else ''}, {self.n_trials} to add"
        )
        study.sampler = _sampler(self.sampler, len(states))
        return study


def distribution(override: Override) -> BaseDistribution:
    """Translate an override with several values into what Optuna draws from.

    Raises
    ------
    UserError
        If Optuna cannot draw from it; the message begins with the override.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    try:
        tags: set[str] = getattr(value, "tags", set())
        if tags - {"log"} or (tags and not isinstance(value, IntervalSweep)):
            raise ValueError(
                f"the tag {', '.join(tags)} is unknown here; expected log, on interval"
            )
        if isinstance(value, IntervalSweep):
            kind = IntDistribution if isinstance(value.start, int) else FloatDistribution
            return kind(value.start, value.end, log="log" in tags)  # type: ignore[arg-type]
        if isinstance(value, RangeSweep) and not value.shuffle:
            return _steps(value)
        return CategoricalDistribution(list(dict.fromkeys(override.sweep_string_iterator())))
    except ValueError as error:
        raise UserError(f"{override.input_line}: {error}") from None


def _steps(value: RangeSweep) -> BaseDistribution:
    """Translate a range, whose end is not part of it."""
    from optuna.distributions import FloatDistribution, IntDistribution

    start, stop, step = (Decimal(str(v)) for v in (value.start, value.stop, value.step))
    count = ceil((stop - start) / step) if step else 0
    if count < 1:
        raise ValueError("the range is empty")
    low, high = sorted((start, start + (count - 1) * step))
    if all(isinstance(v, int) for v in (value.start, value.stop, value.step)):
        return IntDistribution(int(low), int(high), step=int(abs(step)))
    return FloatDistribution(float(low), float(high), step=float(abs(step)))


def _examples(space: Mapping[str, BaseDistribution]) -> list[list[str]]:
    """Draw up jobs in which every choice occurs, so that mistyped ones show before the first."""
    values = {key: getattr(d, "choices", (getattr(d, "low", None),)) for key, d in space.items()}
    longest = max(len(choices) for choices in values.values())
    return [
        [f"{key}={choices[index % len(choices)]}" for key, choices in values.items()]
        for index in range(longest)
    ]


def _tell(study: Study, trial: Trial, loss: float | None) -> None:
    """Tell the result of a job; a pruned one has told its own."""
    from optuna.trial import TrialState

    if loss is None or not isfinite(loss):
        study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
    else:
        study.tell(trial, loss, skip_if_finished=True)


def _settle(study: Study, directory: Path) -> None:
    """Tell the results of trials that an earlier process left behind.

    It may have been killed, or interrupted, and its runs resumed by hand since then.
    """
    from optuna.trial import TrialState

    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        sweep = Path(trial.user_attrs.get("sweep", directory))
        if not sweep.is_dir() or (not sweep.samefile(directory) and _is_held(sweep)):
            continue  # at work in another process, perhaps on another machine
        loss = read_figures(sweep / str(trial.user_attrs.get("job"))).get("validation_loss")
        if loss is None:
            study.tell(trial.number, state=TrialState.FAIL)
        else:
            study.tell(trial.number, loss)


def _is_held(sweep: Path) -> bool:
    """Tell whether a process is at work in a sweep's folder."""
    try:
        with locked(sweep):
            return False
    except UserError:
        return True


def _continuation(directory: Path, left: int) -> str:
    """Name the command that goes on with this search."""
    flags, overrides = divide(sys.argv[1:])
    set_here = ("hydra.sweep.dir=", "hydra.sweeper.n_trials=")
    kept = [word for word in overrides if not word.startswith(set_here)]
    added = [override("hydra.sweep.dir", directory), f"hydra.sweeper.n_trials={left}"]
    return command([*flags, *kept, *added])


@dataclass
class Reporter:
    """Reports a job's validation losses to its trial, and ends the job if the trial is pruned.

    Parameters
    ----------
    study : Study
        As this process has opened it.
    trial : Trial
        The job's.
    """

    study: Study
    trial: Trial

    def __call__(self, epoch: int, loss: float) -> bool:
        """Report a loss; returns whether to stop."""
        from optuna.trial import TrialState

        self.trial.report(loss, epoch)
        if not self.trial.should_prune():
            return False
        log.info(f"pruned after epoch {epoch}: other trials had lower validation losses by then")
        self.study.tell(self.trial, state=TrialState.PRUNED)
        return True


@contextmanager
def reporting(config: Any) -> Iterator[AfterEpoch | None]:
    """Find the trial of the job that is done in a ``with`` block.

    Parameters
    ----------
    config : DictConfig
        Hydra's own configuration of the job.

    Yields
    ------
    Reporter or None
        To be called after each epoch; None if the job is not one of a search.
    """
    sweeper = config.sweeper
    if sweeper.get("_target_") != SEARCH:
        yield None
        return
    from optuna import load_study
    from optuna.trial import Trial, TrialState

    with database(sweeper.storage) as storage:
        study = load_study(
            storage=storage, study_name=sweeper.study_name, pruner=_pruner(sweeper.pruning)
        )
        mine = {"sweep": os.path.abspath(config.sweep.dir), "job": config.job.num}
        running = study.get_trials(states=(TrialState.RUNNING,))
        (found,) = (t for t in running if mine.items() <= t.user_attrs.items())
        yield Reporter(study, Trial(study, found._trial_id))


def _check_installed() -> None:
    """Refuse a missing Optuna, and one that Hydra's plugin has held back."""
    try:
        import optuna

        found = f"version {optuna.__version__} of it"
    except ModuleNotFoundError:
        found = "none"
    if found == "none" or int(optuna.__version__.partition(".")[0]) < OLDEST:
        raise MissingPackageError(
            f"hydra/sweeper=search needs Optuna {OLDEST} or later, but there is {found}: "
            "pip install -e '.[sweeps]'"
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@contextmanager
def database(url: str) -> Iterator[BaseStorage]:
    """Open the database at a URL for a ``with`` block.

    Parameters
    ----------
    url : str
        In SQLAlchemy's form, such as ``sqlite:///studies.db``.

    Yields
    ------
    optuna.storages.RDBStorage
        For studies.

    Raises
    ------
    UserError
        If it cannot be opened.
    """
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import SQLAlchemyError

    waiting = {"timeout": LOCK_SECONDS} if url.startswith("sqlite") else {}
    try:
        storage = RDBStorage(url, engine_kwargs={"connect_args": waiting})
    except (SQLAlchemyError, ImportError) as error:
        raise UserError(
            f"hydra.sweeper.storage: {url!r} cannot be opened ({error}); expected a URL such as "
            "sqlite:///studies.db"
        ) from None
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _sampler(values: Mapping[str, Any], trials: int) -> BaseSampler:
    """Build a sampler; in a study that goes on it does not repeat what it drew."""
    import optuna

    seed = int(np.random.default_rng([values["seed"], trials]).integers(2**31))
    sampler: BaseSampler = getattr(optuna.samplers, SAMPLERS[values["name"]])(seed=seed)
    return sampler


def _pruner(values: Mapping[str, int] | None) -> BasePruner:
    from optuna.pruners import MedianPruner, NopPruner

    if not values:
        return NopPruner()
    if not isinstance(values, Mapping | DictConfig):
        raise UserError(
            f"hydra.sweeper.pruning: {values!r}; expected null, or startup_trials and warmup_epochs"
        )
    for name, value in values.items():
        check_range(f"hydra.sweeper.pruning.{name}", value, at_least=0, integer=True)
    return MedianPruner(values["startup_trials"], values["warmup_epochs"])
