"""Processes that are killed at random under torchrun: whether runs end, and with the same bits.

``python -m benchmarks.lost_processes``: runs of three processes, each with some of its processes
killed at random times, beside a run that nobody disturbs.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

import convae
from benchmarks.measure import keep, table
from convae.models.loading import LAST

PROCESSES = 3

RUN = (
    *("dataset=digits", "model=conv", "trainer.epochs=40", "trainer.batch_size=50"),
    *("augmentation=auto", "corruption=gaussian", "trainer.ema=0.99", "trainer.panels_every=1000"),
    *("trainer.patience=null", "trainer.checkpoint_minutes=0.005", "trainer.embeddings=0"),
)
"""A run that leaves nothing to be chosen, and saves its state every third of a second."""

LIMIT = 600
"""Seconds after which a run counts as one that hangs."""


def start(folder: Path, restarts: int) -> subprocess.Popen[bytes]:
    """Start a run by torchrun."""
    words = ["--standalone", f"--nproc-per-node={PROCESSES}", f"--max-restarts={restarts}"]
    script = [str(Path(__file__).parents[1] / "train.py"), *RUN, f"run={folder}"]
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *words, *script],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def children(parent: int) -> list[int]:
    """List the processes that torchrun has started, on Linux."""
    found = []
    for listed in Path(f"/proc/{parent}/task").glob("*/children"):
        for word in listed.read_text().split():
            with suppress(OSError):  # it has just ended
                if b"train.py" in Path(f"/proc/{word}/cmdline").read_bytes():
                    found.append(int(word))
    return found


def disturbed(folder: Path, kills: int, draw: random.Random) -> int:
    """Do a run of which processes are killed, and return how many were.

    The time between two kills is drawn, from an instant to somewhat longer than processes take to
    begin with training.
    """
    running, killed = start(folder, restarts=kills), 0
    ends = time.monotonic() + LIMIT
    pause = draw.uniform(0, 12)
    since = time.monotonic()
    while running.poll() is None:
        if time.monotonic() > ends:
            running.kill()
            raise TimeoutError(f"{folder}: the run hangs after {killed} kills")
        if killed < kills and time.monotonic() - since > pause:
            alive = children(running.pid)
            if alive:
                os.kill(draw.choice(alive), signal.SIGKILL)
                killed += 1
                pause, since = draw.uniform(0, 12), time.monotonic()
        time.sleep(0.02)
    if running.returncode:
        raise RuntimeError(f"{folder}: torchrun ended with {running.returncode}")
    return killed


def parameters(folder: Path) -> np.ndarray:
    """Return the parameters of a run's last model."""
    model = convae.load(folder / LAST)
    return np.array(model.flat_parameters)


def main() -> None:
    """Kill, compare, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw, total = random.Random(given.seed), 0
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as scratch:
        undisturbed = start(Path(scratch) / "undisturbed", restarts=0)
        assert undisturbed.wait(LIMIT) == 0
        expected = parameters(Path(scratch) / "undisturbed")
        while total < given.kills:
            folder, began = Path(scratch) / str(len(rows)), time.monotonic()
            killed = disturbed(folder, min(10, given.kills - total), draw)
            same = (parameters(folder) == expected).all()
            seconds = f"{time.monotonic() - began:.0f}"
            rows.append([str(len(rows) + 1), str(killed), seconds, "yes" if same else "no"])
            print(f"run {', '.join(rows[-1])}", flush=True)
            total += killed
    header = ["run", "processes killed", "seconds", "the undisturbed run's bits"]
    command = f"python -m benchmarks.lost_processes --kills {given.kills} --seed {given.seed}"
    keep(
        "lost_processes",
        command,
        f"{PROCESSES} processes; {total} were killed.\n\n{table(header, rows)}",
    )


if __name__ == "__main__":
    main()
