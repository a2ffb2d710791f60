"""Ways are tried on problems, each once on a card; what is found is kept on disk.

A wrong way may write anywhere, and an illegal address spoils a process for good. So ways are tried
in a child process, one after the other, each with a limit on its time; where it dies, the way that
it was at is refused, and another child goes on behind it.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

import cupy
from tqdm import tqdm

from convae.engine.gpu import certification
from convae.engine.gpu.verdicts import Verdict, card, read_cache, write_cache
from convae.engine.gpu.ways import ways
from convae.engine.program import Problem, Way

log = logging.getLogger("convae")

SECONDS = 120
"""The longest that one way may take for one problem, compilation included."""

NO_MEMORY = "there was not enough memory to try it"
NOT_STARTED = "the process that tries ways does not start"
KILLED = "the process that tried it was ended by a signal"
PASSING = (NO_MEMORY, NOT_STARTED, KILLED)
"""Refusals that may not be so next time, and are not kept."""

SENT = (signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGKILL", signal.SIGTERM))
"""Signals that somebody sends to a process, as also happens where memory runs out."""

SHORTAGES = ("out of memory", "ALLOC_FAILED", "MEMORY_ALLOCATION")
"""What errors say where memory ran out."""

TOO_LONG = 1
"""Exit status of a child that took too long; errors of its own do not end it."""

CHILD = "convae.engine.gpu.examination"
"""The module that is run as the child."""

SPOILED = 3
"""Exit status of a child whose context is spoiled, after it has said so."""


@dataclass(frozen=True)
class Trial:
    """A way that is to be tried on a problem, by its name.

    With `others`, the names of ways for h and g, the problem is a c, and the trial is whether the
    three are each other's.
    """

    problem: Problem
    way: str
    tf32: bool
    others: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What is tried."""
        if not self.others:
            return self.way
        h, g = self.others
        return f"c by {self.way} with h by {h} and g by {g}"

    @property
    def key(self) -> str:
        """What it is kept under."""
        return f"{self.name}{' in TF32' if self.tf32 else ''}: {self.problem}"


def examine(trials: Sequence[Trial]) -> dict[Trial, Verdict]:
    """Return the verdicts on trials, from disk where there are any."""
    known = read_cache()
    verdicts = {trial: known[trial.key] for trial in trials if trial.key in known}
    left = [trial for trial in trials if trial not in verdicts]
    if not left:
        return verdicts
    log.info(f"certifying {len(left)} ways on {card()}, once for this card ...")
    _give_memory_back()
    with tqdm(total=len(left), unit=" ways", disable=None) as bar:
        for trial, verdict in run_trials(left):
            verdicts[trial] = verdict
            bar.update()
            if verdict.refused not in PASSING:
                write_cache({trial.key: verdict})
    report_refusals({trial: verdicts[trial] for trial in left})
    return verdicts


def _give_memory_back() -> None:
    """Let the child have what this process's pool keeps unused."""
    cupy.get_default_memory_pool().free_all_blocks()


def report_refusals(verdicts: Mapping[Trial, Verdict]) -> None:
    """Name each way that has been refused, with the first reason, in one line."""
    tried = Counter(trial.name for trial in verdicts)
    refused = Counter(trial.name for trial, verdict in verdicts.items() if verdict.refused)
    for way, count in refused.items():
        first = next(t for t, v in verdicts.items() if t.name == way and v.refused)
        log.warning(
            f"warning: {way} not used for {count} of {tried[way]} problems, such as "
            f"{first.problem.title}: {verdicts[first].refused}"
        )


def run_trials(trials: Sequence[Trial]) -> Iterator[tuple[Trial, Verdict]]:
    """Try ways in child processes, and yield the verdicts."""
    rest = list(trials)
    while rest:
        begun, before = False, len(rest)
        with child(rest) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if not line.startswith("{"):
                    continue
                found = json.loads(line)
                begun = found == {}
                if not begun:
                    yield rest.pop(0), Verdict(**found)
        if begun:
            yield rest.pop(0), Verdict(refused=_death(process.returncode))
        elif len(rest) == before:
            yield from ((trial, Verdict(refused=NOT_STARTED)) for trial in rest)
            return


def child(trials: Sequence[Trial]) -> subprocess.Popen[str]:
    """Start a process that tries ways and prints ``{}`` before and a verdict after each."""
    with tempfile.NamedTemporaryFile(delete=False) as file:
        pickle.dump(list(trials), file)  # the child removes it
    command = [sys.executable, "-m", CHILD, file.name]
    root = str(Path(__file__).parents[3])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,  # a signal to a run is the run's
    )


def _death(status: int) -> str:
    """Say how a child died."""
    if status == TOO_LONG:
        return f"it took over {SECONDS} seconds"
    if -status in SENT:
        return KILLED
    how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
    return f"the process that tried it died ({how})"


def try_all(path: str, out: TextIO) -> int:
    """Be the child: try the ways in a file, which is removed; returns the exit status."""
    with open(path, "rb") as file:
        trials: list[Trial] = pickle.load(file)
    os.unlink(path)
    cupy.zeros(1)  # a card that is not to be had ends it before anything is tried
    own = {way.name: way for way in ways()}
    with open(os.devnull, "w") as nowhere, ThreadPoolExecutor() as compilers:
        prepared = [compilers.submit(_prepare, own[trial.way], trial) for trial in trials]
        for trial, preparation in zip(trials, prepared, strict=True):
            print("{}", file=out, flush=True)
            # ends the process whatever it is at, with TOO_LONG
            faulthandler.dump_traceback_later(SECONDS, exit=True, file=nowhere)
            wait([preparation])  # what it raises, the way will raise again
            verdict, is_spoiled = _try(own, trial)
            faulthandler.cancel_dump_traceback_later()
            print(json.dumps(asdict(verdict)), file=out, flush=True)
            if is_spoiled:
                compilers.shutdown(cancel_futures=True)
                return SPOILED
    return 0


def _prepare(way: Way, trial: Trial) -> None:
    """Compile what a way needs, beside others, if it can be compiled ahead."""
    if not trial.others and hasattr(way, "prepare"):
        way.prepare(trial.problem)


def _try(own: Mapping[str, Way], trial: Trial) -> tuple[Verdict, bool]:
    """Certify and time a way; also tells whether the process is spoiled for others."""
    way = own[trial.way]
    try:
        limit = certification.tolerance(trial.problem, trial.tf32)
        if trial.others:
            three = dict(zip("chg", (way, *(own[name] for name in trial.others)), strict=True))
            error = certification.identity(three, trial.problem, cupy)
            wrong = "" if error <= limit else f"<c(K, V), G> and the others differ by {error:.1e}"
            return Verdict(error, 0.0, wrong), False
        error = certification.certify(way, trial.problem, limit, cupy)
        return Verdict(error, certification.seconds(way, trial.problem, cupy)), False
    except certification.CertificationError as refusal:
        return Verdict(refused=str(refusal)), False
    except cupy.cuda.memory.OutOfMemoryError:
        return Verdict(refused=NO_MEMORY), False
    except Exception as error:  # whatever is wrong with a way, it is not used
        message = str(error).strip().partition("\n")[0]
        is_shortage = any(part in str(error) for part in SHORTAGES)
        named = NO_MEMORY if is_shortage else f"{type(error).__name__}: {message}"
        verdict = Verdict(refused=named)
    try:
        cupy.cuda.Device().synchronize()
        return verdict, False
    except cupy.cuda.runtime.CUDARuntimeError:
        return verdict, True


if __name__ == "__main__":
    sys.exit(try_all(sys.argv[1], sys.stdout))
