"""CUDA graphs of a program: what can be recorded is launched as a whole."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from convae.engine.program import Executable


class Recorded:
    """Runs a program, the first time call by call, and afterwards as CUDA graphs.

    The first run compiles what has to be compiled and allocates the memory of the array code in it;
    recording does nothing but record. Calls that cannot be recorded divide the program into several
    graphs. What runs is ordered by the caller's stream.

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
        import cupy

        self.executable = executable
        self.graphs: list[Any] = []
        self._cuda = cupy.cuda
        # array code in a graph goes on using the memory that it was given while it was recorded
        self._memory = cupy.cuda.MemoryPool()
        self._runs: list[Any] | None = None
        self._warm = False

    def __call__(self) -> None:
        """Compute every node, in order."""
        if not self._warm:
            with self._cuda.using_allocator(self._memory.malloc):
                self.executable()
            self._warm = True
            return
        if self._runs is None:
            self._runs = list(map(self._run, self._segments()))
        for run in self._runs:
            run()

    def _segments(self) -> list[tuple[bool, list[Any]]]:
        """Group neighbours that can be recorded, and those that cannot."""
        grouped = groupby(self.executable.calls, lambda call: call[1].records(call[0]))
        return [(records, [run for _, _, run in calls]) for records, calls in grouped]

    def _run(self, segment: tuple[bool, list[Any]]) -> Any:
        """Record a segment, or return what does its calls."""
        records, runs = segment
        if not records:

            def run() -> None:
                with self._cuda.using_allocator(self._memory.malloc):
                    for each in runs:
                        each()

            return run
        stream = self._cuda.Stream(non_blocking=True)
        with self._cuda.using_allocator(self._memory.malloc), stream:
            stream.begin_capture()
            for each in runs:
                each()
            graph = stream.end_capture()
        self.graphs.append(graph)
        return lambda: graph.launch(self._cuda.get_current_stream())
