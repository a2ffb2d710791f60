"""Contestants in processes of their own that take turns, and what else keeps the machine busy.

In one process the threads of PyTorch, JAX and convae would disturb each other, and with another
process at work a table would show how libraries bear that, not how fast they are. So load is
looked for before and while measuring, and a table of a busy machine is not written.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

BUSIEST = 0.1
"""The part of the machine's time that others may take before and while it is measured."""

DOUBTFUL = 0.1
"""How far a contestant's median may be off, relative to it; beyond, it is noise."""

REST_SECONDS = 0.1
"""Between turns, so that the last contestant's waiting threads have gone to sleep."""

TURN_SECONDS = 0.15

ROUNDS, MOST_ROUNDS = 7, 28
"""Turns of each; where these leave a median in doubt, there are more, up to the second."""

CHECKED = 3
"""The first calls, whose results the contestants must agree about."""

ATTEMPTS = 3
"""How often a stack is measured before the machine is called busy."""

PATIENCE_SECONDS = 180.0
"""The longest that making a contestant, or one turn, may take."""

Make = Callable[[Any], Callable[[], float]]


class BusyError(RuntimeError):
    """The machine was not idle enough to measure on."""


class Times(NamedTuple):
    """What was measured of a contestant.

    Parameters
    ----------
    seconds : list of float
        Seconds per call of each turn.
    megabytes : float
        What making it and its first calls have added to its process's memory, at the peak.
    values : list of float
        What the first calls returned.
    """

    seconds: list[float]
    megabytes: float
    values: list[float]

    @property
    def median(self) -> float:
        """The median over the turns."""
        return statistics.median(self.seconds)

    @property
    def least(self) -> float:
        """The smallest."""
        return min(self.seconds)

    @property
    def doubt(self) -> float:
        """About the standard error of the median, relative to it, by the distance of quartiles."""
        low, _, high = statistics.quantiles(self.seconds, n=4)
        return (high - low) / self.median / math.sqrt(len(self.seconds))

    @property
    def is_sure(self) -> bool:
        """Whether that is at most `DOUBTFUL`."""
        return self.doubt <= DOUBTFUL


def serve(connection: Connection, make: Make, first: Any, workload: Any) -> None:
    """Be a contestant: make the call, then do as many as are asked for, and say how long.

    `first` is a small workload that is done before, so that memory is not that of libraries.
    """
    try:
        make(first)()
        forget_peak()
        before = peak()
        call = make(workload)
        values = [call() for _ in range(CHECKED)]
        start = time.perf_counter()
        call()
        connection.send((time.perf_counter() - start, peak() - before, values))
        while count := connection.recv():
            start = time.perf_counter()
            for _ in range(count):
                call()
            connection.send((time.perf_counter() - start) / count)
    except EOFError:
        return
    except Exception as error:  # whatever a library raises: the process that measures names it
        connection.send(f"{type(error).__name__}: {[*str(error).splitlines(), ''][0]}")


def forget_peak() -> None:
    """Let the peak of this process's memory be what it has now, where the system can."""
    with suppress(OSError):  # not on Linux
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> float:
    """Return the peak memory of this process so far, in MB; 0 where it cannot be told."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0.0
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


class Contestant:
    """A process that does a call as often as it is told."""

    def __init__(self, name: str, make: Make, first: Any, workload: Any) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        arguments = (theirs, make, first, workload)
        self.process = context.Process(target=serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        seconds, self.megabytes, self.values = self._receive()
        self._count = max(1, round(TURN_SECONDS / seconds))

    def turn(self) -> float:
        """Take a turn; seconds per call."""
        self._connection.send(self._count)
        return float(self._receive())

    def _receive(self) -> Any:
        """Wait for an answer, not for ever."""
        if not self._connection.poll(PATIENCE_SECONDS):
            raise TimeoutError(f"{self.name}: no answer within {PATIENCE_SECONDS:.0f} s")
        answer = self._connection.recv()
        if isinstance(answer, str):
            raise RuntimeError(f"{self.name}: {answer}")
        return answer

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()


@contextmanager
def contestants(
    makers: Mapping[str, Make], first: Any, workload: Any
) -> Iterator[dict[str, Contestant]]:
    """Start contestants one after the other; say which cannot be made, and leave them out."""
    found: dict[str, Contestant] = {}
    try:
        for name, make in makers.items():
            try:
                found[name] = Contestant(name, make, first, workload)
            except (RuntimeError, TimeoutError, EOFError) as error:
                print(f"left out: {error}")
        yield found
    finally:
        for contestant in found.values():
            contestant.close()


def take_turns(makers: Mapping[str, Make], first: Any, workload: Any) -> dict[str, Times]:
    """Time contestants, by the functions that make their calls for a workload, in turns.

    Where others took more than `BUSIEST` of the machine meanwhile, or a contestant's median is
    `DOUBTFUL` after all turns, they are timed again, `ATTEMPTS` times; then BusyError is raised.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return _attempt(makers, first, workload)
        except BusyError as error:
            print(f"again: {error}", flush=True)
    return _attempt(makers, first, workload)


def _attempt(makers: Mapping[str, Make], first: Any, workload: Any) -> dict[str, Times]:
    """Take turns once."""
    with contestants(makers, first, workload) as found:
        times = {name: Times([], c.megabytes, c.values) for name, c in found.items()}
        begun = others_seconds(found)
        for done in range(MOST_ROUNDS):
            if done >= ROUNDS and all(result.is_sure for result in times.values()):
                break
            for name, contestant in found.items():
                time.sleep(REST_SECONDS)
                times[name].seconds.append(contestant.turn())
        part = busy_part(begun, others_seconds(found))
    refuse(part, times)
    return times


def refuse(part: float, times: Mapping[str, Times]) -> None:
    """Raise BusyError if others took too much of the machine, or a median is in doubt."""
    if not part <= BUSIEST:
        raise BusyError(f"others took {part:.0%} of the machine while it was measured")
    for name, result in times.items():
        if not result.is_sure:
            raise BusyError(
                f"{name}: its median may be off by {result.doubt:.0%} "
                f"after {len(result.seconds)} turns"
            )


def check_idle(seconds: float = 2.0) -> None:
    """Refuse a machine on which something else is at work."""
    begun = others_seconds({})
    time.sleep(seconds)
    part = busy_part(begun, others_seconds({}))
    if not part <= BUSIEST:
        raise BusyError(f"the machine is {part:.0%} busy with something else")


def others_seconds(ours: Mapping[str, Contestant]) -> tuple[float, float]:
    """Return the time, and the processor time that others than ours and idling have taken."""
    stat = Path("/proc/stat")
    if not stat.exists():  # not Linux: only the spread of the turns tells
        return time.perf_counter(), 0.0
    tick = os.sysconf("SC_CLK_TCK")
    counts = [int(word) for word in stat.read_text().splitlines()[0].split()[1:9]]
    del counts[3:5]  # idling, and waiting for a disk
    own = sum(_processor_seconds(c.process.pid, tick) for c in ours.values())
    return time.perf_counter(), sum(counts) / tick - own - time.process_time()


def busy_part(begun: tuple[float, float], ended: tuple[float, float]) -> float:
    """Return the part of all cores that was taken between two moments."""
    return (ended[1] - begun[1]) / (ended[0] - begun[0]) / (os.cpu_count() or 1)


def _processor_seconds(pid: int | None, tick: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / tick
