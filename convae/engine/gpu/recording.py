"""CUDA graphs of a program: what can be recorded is launched as a whole."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import cupy

from convae.engine.program import Executable
from convae.engine.program.arithmetic import Run

log = logging.getLogger("convae")


def record(runs: Sequence[Run]) -> tuple[Any, list[Any]]:
    """Record calls as a CUDA graph, and compute nothing.

    Returns the graph, and the memory that array code in it was given: it has to be kept as long as
    the graph, which goes on using it.
    """
    kept: list[Any] = []

    def allocate(size: int) -> Any:
        kept.append(cupy.get_default_memory_pool().malloc(size))
        return kept[-1]

    stream = cupy.cuda.Stream(non_blocking=True)
    with cupy.cuda.using_allocator(allocate), stream:
        stream.begin_capture()
        try:
            for run in runs:
                run()
        finally:
            graph = stream.end_capture()
    return graph, kept


class Recorded:
    """Runs a program, the first time call by call, and afterwards as CUDA graphs.

    The first run compiles what has to be compiled. Calls that cannot be recorded divide the program
    into several graphs. What runs is ordered by the caller's stream.

    Parameters
    ----------
    executable : Executable
        The program, bound to arrays of CuPy.

    Attributes
    ----------
    graphs : list of cupy.cuda.Graph
        What is recorded so far.
    """

    def __init__(self, executable: Executable) -> None:
        self.executable = executable
        self.graphs: list[Any] = []
        self._memory: list[Any] = []
        self._runs: list[Callable[[], None]] | None = None
        self._is_warm = False

    def __call__(self) -> None:
        """Compute every node, in order."""
        if not self._is_warm:
            self._is_warm = True
            self.executable()
            return
        if self._runs is None:
            self._runs = [run for segment in self._segments() for run in self._recorded(*segment)]
        for run in self._runs:
            run()

    def _segments(self) -> list[tuple[bool, list[Run]]]:
        """Group neighbours that can be recorded, and those that cannot."""
        grouped = groupby(self.executable.calls, lambda call: call[1].records(call[0]))
        return [(records, [run for _, _, run in calls]) for records, calls in grouped]

    def _recorded(self, records: bool, runs: list[Run]) -> list[Run]:
        """Record a segment, or return its calls."""
        if not records:
            return runs
        try:
            graph, memory = record(runs)
        except Exception as error:  # whatever a card objects to, the calls themselves are right
            log.warning(f"warning: {len(runs)} nodes cannot be recorded, and are called: {error}")
            return runs
        self.graphs.append(graph)
        self._memory.append(memory)
        return [lambda: graph.launch(cupy.cuda.get_current_stream())]
