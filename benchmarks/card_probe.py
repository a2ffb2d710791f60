"""What a card can do for us, in three minutes: python -m benchmarks.card_probe [--peers].

Prints a line of JSON for each measurement as soon as it is made, the most valuable first, so that
nothing is lost if the time runs out. With --peers PyTorch's steps are measured beside ours.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from benchmarks import card
from convae import engine

SECONDS = 170
"""After so long no further measurement is begun."""

FIRST = ("1x28x28 b1024: 32@5/2 64@3/2", "3x64x64 b256: 64@5/2 128@3/2 256@3/2, first 3")
"""The workloads that are measured first: one of small images, one of large ones."""

Contestants = Callable[[card.Workload, str], Iterator[tuple[str, Callable[[], Any]]]]
Measurement = tuple[str, Callable[[], Iterator[dict[str, Any]]]]


def measurements(peers: bool, workloads: dict[str, card.Workload]) -> Iterator[Measurement]:
    """List what is measured, the most valuable first."""
    first = [name for name in FIRST if name in workloads] or list(workloads)[:1]
    pairs_of = [(name, precision) for name in first for precision in card.PRECISIONS]
    rest = [(n, p) for n in workloads if n not in first for p in card.PRECISIONS]
    yield "card", describe
    yield "ceilings", lambda: pairs(card.ceilings())
    yield "launches", lambda: pairs(card.launch_costs())
    for name, precision in pairs_of:
        yield f"step {name}", partial(steps, workloads[name], precision, ours)
    yield "ways", ways
    if peers:
        for name, precision in pairs_of:
            yield f"step {name}", partial(steps, workloads[name], precision, theirs)
    for name, precision in rest:
        yield f"step {name}", partial(steps, workloads[name], precision, ours)
        if peers:
            yield f"step {name}", partial(steps, workloads[name], precision, theirs)


def describe() -> Iterator[dict[str, Any]]:
    """Name the card and the software that reaches it."""
    from convae.engine.gpu.verdicts import setting

    yield setting()


def pairs(found: Iterator[tuple[str, float]]) -> Iterator[dict[str, Any]]:
    """Turn named numbers into measurements."""
    for name, value in found:
        yield {"of": name, "value": value}


def steps(
    workload: card.Workload, precision: str, contestants: Contestants
) -> Iterator[dict[str, Any]]:
    """Measure whole training steps, each as soon as it is built, and report their first losses."""
    for name, step in contestants(workload, precision):
        losses = [float(step()) for _ in range(3)]
        seconds = card.middle(card.alternated({name: step}, rounds=5)[name])
        yield {"precision": precision, "who": name, "seconds": seconds, "losses": losses}


def ours(workload: card.Workload, precision: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Make our steps."""
    for gpu_engine in ("portable", "fast"):
        yield gpu_engine, card.our_step(workload, precision, gpu_engine)[1]


def theirs(workload: card.Workload, precision: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Make PyTorch's steps; the one in a graph has done steps while it was recorded."""
    for name, step in card.their_steps(workload, precision):
        yield f"PyTorch, {name}", step


def ways() -> Iterator[dict[str, Any]]:
    """Report every way that was tried for the steps so far, with error and time, or why not."""
    from convae.engine.gpu.verdicts import read_cache

    for key, verdict in read_cache().items():
        found = {"error": verdict.error, "seconds": verdict.seconds, "refused": verdict.refused}
        yield {"way": key, **found}


def main() -> None:
    """Measure until the time is up; a measurement that fails says so in its line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peers", action="store_true", help="measure PyTorch's steps, too")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="when to stop")
    parser.add_argument("--only", help="a part of the names of the workloads to measure")
    arguments = parser.parse_args()
    if missing := engine.missing_gpu():
        sys.exit(f"error: no GPU: {missing}")
    workloads = {n: w for n, w in card.workloads().items() if (arguments.only or "") in n}
    if not workloads:
        sys.exit(f"error: --only {arguments.only!r} is part of none of {list(card.workloads())}")
    begun = time.perf_counter()
    for name, measure in measurements(arguments.peers, workloads):
        elapsed = time.perf_counter() - begun
        if elapsed > arguments.seconds:
            print(json.dumps({"left out": name}), flush=True)
            continue
        try:
            for found in measure():
                print(json.dumps({"what": name, **found}), flush=True)
        except Exception as error:  # the next measurement may work
            message = f"{type(error).__name__}: {error}".splitlines()[0]
            print(json.dumps({"what": name, "failed": message}), flush=True)


if __name__ == "__main__":
    main()
