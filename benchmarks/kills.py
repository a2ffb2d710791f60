"""Runs killed again and again, beside one left alone: python -m benchmarks.kills [--kills 100].

Runs on digits are killed by SIGKILL at random moments, from the start of their processes on, and
resumed after each; in the end their files are compared bit by bit with an uninterrupted run's.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from convae.app.summary import SUMMARY, Summary
from convae.files import TEMPORARY
from convae.models import checkpoint
from convae.models.loading import BEST, LAST
from convae.training.state import StateFolder, has_state
from convae.training.trainer import Trainer

REPOSITORY = Path(__file__).parents[1]

KILLS = 100
"""Kills for the table that is kept."""

RUN = (
    "device=cpu",
    "schedule=cosine",
    "trainer.ema=0.99",
    "trainer.epochs=10",
    "trainer.batch_size=8",
    "trainer.checkpoint_minutes=0.0005",
    "trainer.embeddings=100",
)

PHASES: dict[str, tuple[str, Any, str]] = {
    "s": ("within an epoch", Trainer, "_train_batch"),
    "v": ("at an epoch's end: validation, models", Trainer, "_end_epoch"),
    "w": ("while writing a state", StateFolder, "save"),
    "a": ("after training: summary", Summary, "write"),
}
"""What a letter of the journal stands for, and the function whose calls it marks."""

STARTING = "-"
"""The letter that a process begins with."""


def life(journal: Path, arguments: list[str]) -> None:
    """Do what ``python train.py`` does, and keep a journal: a letter whenever a phase begins."""
    from convae.app.entry import main

    handle = os.open(journal, os.O_WRONLY | os.O_APPEND)
    for letter, (_, owner, name) in PHASES.items():
        setattr(owner, name, _marked(getattr(owner, name), handle, letter.encode()))
    main(arguments)


def _marked(function: Callable[..., Any], handle: int, letter: bytes) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        os.write(handle, letter)
        return function(*arguments)

    return call


def start(journal: Path, arguments: list[str]) -> subprocess.Popen[str]:
    """Start a process that does a run, or resumes it."""
    with journal.open("a") as file:
        file.write(STARTING)
    command = [sys.executable, "-m", "benchmarks.kills", "--journal", str(journal), *arguments]
    return subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str], seconds: float | None = None) -> bool:
    """Wait for a process to end by itself; False if it had to be killed after so many seconds."""
    try:
        _, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return False
    if process.returncode:
        sys.exit(f"error: a run ended with status {process.returncode}:\n{errors}")
    return True


def killed_again_and_again(
    folder: Path, journal: Path, draw: random.Random, longest: float, kills: int
) -> Counter[str]:
    """Kill a run until it ends, so many times at most; return how often each phase was hit.

    Each process lives for a random time of so many seconds at the longest.
    """
    hits: Counter[str] = Counter()
    while True:
        is_first = not has_state(folder)
        overrides = [*RUN, f"hydra.run.dir={folder}"] if is_first else [f"resume={folder}"]
        seconds = draw.uniform(0, longest) if hits.total() < kills else None
        if finish(start(journal, overrides), seconds):
            return hits
        phase = journal.read_text()[-1]
        if phase == STARTING:
            hits["before the first state" if is_first else "while starting again"] += 1
        else:
            hits[PHASES[phase][0]] += 1


def differences(whole: Path, killed: Path) -> list[str]:
    """Name the files of two runs that are not the same, and temporary files left."""
    found = [
        name
        for name in (BEST, LAST, SUMMARY)
        if (whole / name).read_bytes() != (killed / name).read_bytes()
    ]
    if final_state(whole) != final_state(killed):
        found.append("the final state")
    return found + [str(path) for path in killed.rglob(f"*{TEMPORARY}")]


def final_state(folder: Path) -> tuple[dict[str, bytes], str]:
    """Read the last state of a run, without the folder that it resumed."""
    arrays, description = checkpoint.read(max(folder.glob("state-*")))
    del description["configuration"]["resume"]
    content = {name: array.tobytes() for name, array in arrays.items()}
    return content, json.dumps(description)


def main() -> None:
    """Kill runs, compare them with one left alone, and save the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=KILLS, help="how many in all")
    parser.add_argument("--journal", type=Path, help=argparse.SUPPRESS)
    given, overrides = parser.parse_known_args()
    if given.journal:
        life(given.journal, overrides)
        return
    from benchmarks.measure import keep, table  # not above: a life should start as train.py does

    with tempfile.TemporaryDirectory() as temporary:
        place, draw = Path(temporary), random.Random(1)
        whole, alone, killed = place / "whole", place / "alone.journal", place / "killed.journal"
        begin = time.perf_counter()
        finish(start(alone, [*RUN, f"hydra.run.dir={whole}"]))
        longest = (time.perf_counter() - begin) / 2  # so that half of them get beyond the imports
        hits: Counter[str] = Counter()
        different: list[str] = []
        runs = 0
        with tqdm(total=given.kills, unit=" kills", disable=None) as bar:
            while hits.total() < given.kills:
                folder = place / f"killed-{runs}"
                left = given.kills - hits.total()
                hits += killed_again_and_again(folder, killed, draw, longest, left)
                different += differences(whole, folder)
                runs += 1
                bar.update(hits.total() - bar.n)
        steps, all_steps = (journal.read_text().count("s") for journal in (alone, killed))
        processes = killed.read_text().count(STARTING)
    rows = [[f"killed {phase}", str(count)] for phase, count in hits.most_common()]
    rows += [
        ["runs", str(runs)],
        ["processes, to the end of all runs", str(processes)],
        ["steps of all runs", f"{runs * steps:,}"],
        ["steps done again", f"{all_steps - runs * steps:,}"],
        ["files and final states equal, no temporary files", "no" if different else "yes"],
    ]
    text = table(["what", "count"], rows)
    if given.kills == KILLS:
        keep("kills", "python -m benchmarks.kills", text)
    else:
        print(text)
    if different:
        sys.exit(f"error: not as in the run left alone: {', '.join(different)}")


if __name__ == "__main__":
    main()
