"""Sweeps: a grid of jobs, the table of their figures, and what is left if they end early.

Hydra starts `Grid` for ``-m``; `convae.app.search` has another sweeper.
"""

from __future__ import annotations

import csv
import io
import logging
import shlex
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from convae.app import workers
from convae.app.arguments import command, resume_command, run_command
from convae.app.summary import SUMMARY, read_figures
from convae.errors import UserError, check_range, counted
from convae.files import locked, write_bytes
from convae.keys import override
from convae.training.signals import StopSignals
from convae.training.state import has_state

log = logging.getLogger("convae")

GRID = "hydra_plugins.convae.Grid"
"""Name of `Grid` for Hydra."""

RESULTS = "results.csv"
"""Name of the table in a sweep's folder."""

ERROR = "error.txt"
"""Name of the file in a job's folder that says why it failed."""

OVERRIDES = ".hydra/overrides.yaml"
"""Name of Hydra's file in a job's folder that lists its overrides."""

FIGURES = ("validation_loss", "test_mse", "pca_mse", "mean_image_mse", "best_epoch")
"""Columns from the runs' summaries; the first one decides which run is the best."""


class JobSweeper(Sweeper):
    """What the sweepers share: the launcher that Hydra's configuration names."""

    config: DictConfig
    hydra_context: HydraContext
    launcher: Launcher

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what Hydra hands over."""
        self.config = config
        self.hydra_context = hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def parse(self, params: Mapping[str, Any] | None, arguments: list[str]) -> list[Override]:
        """Parse the overrides of the sweep: those of its configuration, then the command line's."""
        given = [f"{key}={value}" for key, value in (params or {}).items()]
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        return parser.parse_overrides([*given, *arguments])


class Grid(JobSweeper):
    """Every combination of the values given, as Hydra's own sweeper, but with the books kept.

    What is in the sweep's folder already is not done again: of jobs with the same overrides those
    that have ended are left out, and the others go on. New ones are numbered after them.

    Parameters
    ----------
    max_batch_size : int, optional
        Jobs handed to the launcher at a time; all of them if not given.
    params : mapping, optional
        Values by key, in the syntax of the command line, which overrides them.
    """

    def __init__(self, max_batch_size: int | None, params: Mapping[str, Any] | None) -> None:
        self.max_batch_size = max_batch_size
        self.params = params

    def sweep(self, arguments: list[str]) -> None:
        """Do all jobs, one batch after the other."""
        if self.max_batch_size is not None:
            check_range(
                "hydra.sweeper.max_batch_size", self.max_batch_size, at_least=1, integer=True
            )
        overrides = self.parse(self.params, arguments)
        batches = BasicSweeper.split_arguments(overrides, self.max_batch_size)
        for batch in batches:
            self.validate_batch_is_legal(batch)
        with sweeping(self.config, self.launcher) as jobs:
            known = jobs.known()
            numbers, free = [], jobs.free_number()
            for job in (job for batch in batches for job in batch):
                its = known[_key(job)]
                numbers.append(its.pop() if its else free)
                free += numbers[-1] == free
                jobs.planned[numbers[-1]] = job
            ended = [n for n in numbers if (jobs.folder(n) / SUMMARY).is_file()]
            if ended:
                log.info(f"{len(ended)} of {counted(len(numbers), 'run')} have ended already")
            for batch in batches:
                its, numbers = numbers[: len(batch)], numbers[len(batch) :]
                left = {n: job for n, job in zip(its, batch, strict=True) if n not in ended}
                jobs.launch(list(left.values()), list(left))


@contextmanager
def sweeping(config: DictConfig, launcher: Launcher) -> Iterator[Jobs]:
    """Hold a sweep's folder for jobs that are launched in a ``with`` block.

    At its end the table is written and shown. If a signal or an error ends it early, what is left
    follows, with commands; if jobs failed, the process exits with a message that says so.
    """
    workers.lead()
    jobs = Jobs(config, launcher)
    with locked(jobs.directory):
        OmegaConf.save(config, jobs.directory / "multirun.yaml")
        jobs.stop_file.unlink(missing_ok=True)
        try:
            with jobs.signals:
                yield jobs
        except BaseException:
            if jobs.launched:
                jobs.show_table()
                jobs.show_left()
            raise
        jobs.show_table()
    if jobs.failed:
        numbers = ", ".join(map(str, jobs.failed))
        sys.exit(f"error: {len(jobs.failed)} of the runs failed: see {ERROR} in {numbers}")


class Jobs:
    """The jobs of a sweep.

    Parameters
    ----------
    config : DictConfig
        Hydra's configuration of the sweep.
    launcher : Launcher
        What does the jobs.

    Attributes
    ----------
    directory : Path
        The sweep's folder.
    planned : dict
        The overrides of each job, by its number.
    continuation : str
        A command for the jobs that are not even planned yet.
    launched, failed : list of int
        Numbers of jobs.
    signals : StopSignals
        What ends the sweep: at once, or where workers are at work, when they have saved their
        states.
    stop_file : Path
        What tells them to.
    """

    def __init__(self, config: DictConfig, launcher: Launcher) -> None:
        self.directory = Path(config.hydra.sweep.dir)
        self.planned: dict[int, Sequence[str]] = {}
        self.continuation = ""
        self.launched: list[int] = []
        self.failed: list[int] = []
        self.signals = StopSignals(self._stop)
        self.stop_file = self.directory / workers.STOP
        self._launcher = launcher
        self._uses_workers = workers.count(config) > 1
        self._are_at_work = False

    def _stop(self, number: int) -> None:
        if not self._are_at_work:
            sys.exit(128 + number)
        self.stop_file.touch()

    def folder(self, number: int) -> Path:
        """Name the folder of a job."""
        return self.directory / str(number)

    def free_number(self) -> int:
        """Find the number after those of all jobs in the sweep's folder."""
        numbers = [int(path.name) for path in self.directory.iterdir() if path.name.isdigit()]
        return max(numbers, default=-1) + 1

    def known(self) -> defaultdict[tuple[str, ...], list[int]]:
        """Return the numbers of jobs that have been begun in this folder, by their overrides."""
        found: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
        for folder in self.directory.iterdir():
            if folder.name.isdigit() and (folder / OVERRIDES).is_file():
                found[_key(_overrides(folder))].append(int(folder.name))
        return found

    def launch(self, batch: Sequence[Sequence[str]], numbers: Sequence[int]) -> list[float | None]:
        """Do jobs, in the folders of their numbers; returns their losses, None for a failed one."""
        if not batch:
            return []
        self.launched += numbers
        self._are_at_work = self._uses_workers
        batch = [self._placed(job, number) for job, number in zip(batch, numbers, strict=True)]
        try:
            with workers.hidden_signals() if self._uses_workers else nullcontext():
                returns = self._launcher.launch(batch, initial_job_idx=numbers[0])
        except Exception:  # a launcher raises what it likes when its workers have ended
            if not self.signals.received:
                raise
        finally:
            self._are_at_work = False
            self.stop_file.unlink(missing_ok=True)
        if self.signals.received:
            sys.exit(128 + self.signals.received)
        losses = [job.return_value for job in returns]
        self.failed += [n for n, loss in zip(numbers, losses, strict=True) if loss is None]
        return losses

    def _placed(self, job: Sequence[str], number: int) -> list[str]:
        """Say where a job's folder is, and to go on with what has been begun there."""
        folder = self.folder(number)
        (folder / ERROR).unlink(missing_ok=True)
        where = override("hydra.sweep.subdir", number)
        if has_state(folder):
            log.info(f"run {number} goes on where it was")
            return [override("resume", folder), where]
        return [*job, where]

    def show_table(self) -> None:
        """Write the table and show it, with a command for the best run."""
        rows = collect(self.directory)
        if not rows:
            return
        write_bytes(self.directory / RESULTS, as_csv(rows).encode())
        with suppress(OSError):  # the terminal may be gone
            print(f"\n{as_table(rows)}\n")
            if rows[0][FIGURES[0]] != "":
                print(f"Best: {command(_overrides(self.folder(rows[0]['run'])))}")
            print(f"Table: {shlex.quote(str(self.directory / RESULTS))}")

    def show_left(self) -> None:
        """List commands for the jobs that are not done."""
        commands = []
        for number, overrides in self.planned.items():
            folder = self.folder(number)
            if (folder / SUMMARY).is_file() or (folder / ERROR).is_file():
                continue
            commands.append(
                resume_command(folder) if has_state(folder) else run_command(overrides, folder)
            )
        if self.continuation:
            commands.append(self.continuation)
        with suppress(OSError):
            print("\nNot done yet:", *commands, sep="\n  ", flush=True)


def update_table(directory: Path) -> None:
    """Bring the table of a sweep up to date, if a folder is that of one."""
    if (directory / RESULTS).is_file():
        write_bytes(directory / RESULTS, as_csv(collect(directory)).encode())


def collect(directory: Path) -> list[dict[str, Any]]:
    """Gather the runs of a sweep: for each its number, its overrides and its `FIGURES`.

    The best comes first, then those that a search has pruned, with the epoch in which it did; runs
    without a summary come last, with empty figures.
    """
    rows = []
    for folder in directory.iterdir():
        if not folder.name.isdigit() or not (folder / OVERRIDES).is_file():
            continue
        row: dict[str, Any] = {"run": int(folder.name)}
        pairs = (override.partition("=") for override in _overrides(folder))
        row |= {key.lstrip("+"): value for key, _, value in pairs}
        try:
            figures = read_figures(folder)
        except UserError as error:  # the other runs are not lost
            log.warning(f"warning: {error}")
            figures = {}
        if "pruned" in figures:
            row["pruned"] = figures["pruned"]
        rows.append(row | {name: figures.get(name, "") for name in FIGURES})
    loss = FIGURES[0]
    return sorted(rows, key=lambda r: (r[loss] == "", "pruned" in r, r[loss], r["run"]))


def _key(job: Sequence[str]) -> tuple[str, ...]:
    """Recognise a job, in whichever order its overrides are."""
    return tuple(sorted(job))


def _overrides(folder: Path) -> list[str]:
    """Read the overrides of a job."""
    return [str(override) for override in OmegaConf.load(folder / OVERRIDES)]


def as_csv(rows: list[dict[str, Any]]) -> str:
    """Write rows as comma-separated values."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _columns(rows), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_table(rows: list[dict[str, Any]]) -> str:
    """Align rows in columns, for the screen."""
    keys = _columns(rows)
    shown = [{key: _short(value) for key, value in row.items()} for row in rows]
    widths = {key: max(len(key), *(len(row.get(key, "")) for row in shown)) for key in keys}
    lines = ["  ".join(key.rjust(widths[key]) for key in keys)]
    lines += ["  ".join(row.get(k, "").rjust(widths[k]) for k in keys) for row in shown]
    return "\n".join(lines)


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    return [*dict.fromkeys(key for row in rows for key in row if key not in FIGURES), *FIGURES]


def _short(value: Any) -> str:
    return (
        f"{value:.5f}" if isinstance(value, float) and value % 1 else str(value).removesuffix(".0")
    )
