"""Which way computes a problem on this card: certified and timed once, and kept on disk.

A wrong way may write anywhere, and an illegal address spoils a process for good. So ways are tried
in a child process, one after the other, each with a limit on its time; where it dies, the way that
it was at is refused, and another child goes on behind it.
"""

from __future__ import annotations

import faulthandler
import hashlib
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from convae import files
from convae.engine.backend import Backend
from convae.engine.gpu import certification, cudnn
from convae.engine.gpu.ways import candidates, rounds, ways
from convae.engine.program import Portable, Problem, Program, Way

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
class Verdict:
    """What was found of a way for a problem.

    Parameters
    ----------
    error : float or None
        The largest error, relative to the largest number of its array.
    seconds : float or None
        Time of a call.
    refused : str
        Why it is not used; empty if it is right.
    """

    error: float | None = None
    seconds: float | None = None
    refused: str = ""


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


class Choice:
    """Chooses the fastest certified way for every problem of a program.

    Parameters
    ----------
    backend : CupyBackend
        Computes what no way is certified for, and says whether factors may be rounded to TF32.
    """

    def __init__(self, backend: Backend) -> None:
        self.portable = Portable(backend)
        self.tf32 = bool(getattr(backend, "tf32", False))
        self._verdicts: dict[Trial, Verdict] = {}

    def __call__(self, program: Program) -> Callable[[Problem], Way]:
        """Certify what has not been tried on this card, and choose.

        Parameters
        ----------
        program : Program
            What is to be computed.

        Returns
        -------
        callable
            Returns the way of a problem.
        """
        own = {way.name: way for way in ways()}
        trials = [
            Trial(problem, way.name, self.tf32 and rounds(way, problem))
            for problem in program.problems()
            for way in candidates(problem, list(own.values()), self.tf32)
        ]
        verdicts = examine(trials)
        self._verdicts |= verdicts
        chosen: dict[Problem, Way] = {}
        best: dict[Problem, float] = {}
        for trial, verdict in verdicts.items():
            if verdict.refused or verdict.seconds is None:
                continue
            if verdict.seconds < best.get(trial.problem, float("inf")):
                best[trial.problem] = verdict.seconds
                chosen[trial.problem] = own[trial.way]
        for parts, verdict in self._identities(chosen).items():
            if verdict.refused and verdict.refused not in PASSING:
                for problem in parts:
                    chosen.pop(problem, None)
        return lambda problem: chosen.get(problem, self.portable)

    def _identities(self, chosen: Mapping[Problem, Way]) -> dict[tuple[Problem, ...], Verdict]:
        """Try whether the ways chosen for a layer's c, h and g are each other's.

        Bare ones are tried, so that a way that fuses more is left out.
        """
        trials: dict[Trial, tuple[Problem, ...]] = {}
        for problem, way in chosen.items():
            if problem.operation != "c" or problem["activation"] is None:
                continue
            three = {"c": problem}
            for other in chosen:
                operation = "h" if other.operation == "error" else other.operation
                kernel = other.shape("dK" if operation == "g" else "K")
                is_own = other["geometry"] == problem.geometry and kernel == problem.shape("K")
                if operation in ("h", "g") and is_own:
                    three[operation] = other
            own = [chosen[three[o]] for o in three]
            if len(three) == 3 and not any(getattr(w, "fused", False) for w in own):
                others = tuple(chosen[three[operation]].name for operation in ("h", "g"))
                is_rounded = any(rounds(way, problem) for way in own)
                trials[Trial(problem, way.name, is_rounded, others)] = tuple(three.values())
        verdicts = examine(list(trials))
        return {parts: verdicts[trial] for trial, parts in trials.items()}

    def verdicts(self, problem: Problem) -> dict[str, Verdict]:
        """Return what was found for a problem, by the names of the ways.

        Parameters
        ----------
        problem : Problem
            One of the programs that were chosen for.

        Returns
        -------
        dict
            A verdict for every way that suits it.
        """
        return {t.name: found for t, found in self._verdicts.items() if t.problem == problem}


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
    import cupy

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
    import cupy

    cupy.zeros(1)  # a card that is not to be had ends it before anything is tried
    own = {way.name: way for way in ways()}
    with open(os.devnull, "w") as nowhere:
        for trial in trials:
            print("{}", file=out, flush=True)
            # ends the process whatever it is at, with TOO_LONG
            faulthandler.dump_traceback_later(SECONDS, exit=True, file=nowhere)
            verdict, is_spoiled = _try(own, trial, cupy)
            faulthandler.cancel_dump_traceback_later()
            print(json.dumps(asdict(verdict)), file=out, flush=True)
            if is_spoiled:
                return SPOILED
    return 0


def _try(own: Mapping[str, Way], trial: Trial, cupy: Any) -> tuple[Verdict, bool]:
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


@cache
def card() -> str:
    """Name the card in use."""
    import cupy

    device = cupy.cuda.Device()
    return str(cupy.cuda.runtime.getDeviceProperties(device.id)["name"].decode())


@cache
def setting() -> dict[str, Any]:
    """Describe all that verdicts depend on: the card, its software, and our own."""
    import cupy

    engine = Path(__file__).parents[1]
    sources = [*(engine / "gpu").rglob("*.py"), *(engine / "gpu").rglob("*.cu")]
    sources += [*(engine / "program").glob("*.py"), engine / "updates.py"]
    digest = hashlib.blake2b(digest_size=8)
    for source in sorted(sources):
        digest.update(source.read_bytes())
    return {
        "card": card(),
        "driver": cupy.cuda.runtime.driverGetVersion(),
        "cupy": cupy.__version__,
        "nvrtc": list(cupy.cuda.nvrtc.getVersion()),
        "cudnn": cudnn.version(),
        "convae": digest.hexdigest(),
    }


def cache_file() -> Path:
    """Return where the verdicts on this card are kept."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    base = os.environ.get("CONVAE_CACHE") or caches / "convae"
    name = hashlib.blake2b(json.dumps(setting()).encode(), digest_size=8).hexdigest()
    return Path(base) / "gpu" / f"{name}.json"


def read_cache() -> dict[str, Verdict]:
    """Read the verdicts on this card; none where there is no such file, or it is damaged."""
    try:
        content = json.loads(cache_file().read_text())
        return {key: Verdict(**found) for key, found in content["verdicts"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def write_cache(verdicts: dict[str, Verdict]) -> None:
    """Add verdicts to those on disk; where that is impossible, they are found anew next time."""
    merged = {key: asdict(found) for key, found in {**read_cache(), **verdicts}.items()}
    path = cache_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"setting": setting(), "verdicts": merged}
        files.write_bytes(path, json.dumps(content, indent=1).encode())
    except OSError as error:
        log.warning(f"warning: {path} cannot be written: {error}")


if __name__ == "__main__":
    sys.exit(try_all(sys.argv[1], sys.stdout))
