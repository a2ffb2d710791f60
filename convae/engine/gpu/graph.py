"""A captured CUDA graph with two input buffers, so that copies overlap computation.

The captured function must not call cuBLAS, which cannot be captured through CuPy. The memory that
it allocates belongs to the graphs and is kept.

Implemented and tested with the pretend GPU, disabled until certified on hardware.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from convae.engine.arrays import Array


class DoubleBufferedGraph:
    """A function of one batch, captured twice: while one graph runs, the other's input is copied.

    function: x (`shape`) -> (); `state`: the arrays that it changes, restored after the capture
    """

    def __init__(
        self,
        xp: Any,
        function: Callable[[Array], Array],
        shape: tuple[int, ...],
        state: Sequence[Array],
    ) -> None:
        self._cuda, self._function = xp.cuda, function
        self._memory = xp.cuda.MemoryPool()
        self._stream = xp.cuda.Stream(non_blocking=True)
        self._copies = xp.cuda.Stream(non_blocking=True)
        self._turn = 0
        with self._cuda.using_allocator(self._memory.malloc):
            self._inputs = [xp.zeros(shape, np.float32) for _ in range(2)]
            self._results = [xp.zeros((), np.float64) for _ in range(2)]
        self._cuda.Device().synchronize()
        self._graphs = [self._record(turn, state) for turn in range(2)]
        self._done = [self._stream.record() for _ in range(2)]

    def _compute(self, turn: int) -> None:
        """Compute what one graph does: only launches, and memory from its own pool."""
        self._results[turn][...] = self._function(self._inputs[turn])

    def _record(self, turn: int, state: Sequence[Array]) -> Any:
        """Capture a graph after two warm-up runs, which compile kernels and allocate memory."""
        kept = [array.copy() for array in state]
        self._cuda.Device().synchronize()
        with self._cuda.using_allocator(self._memory.malloc), self._stream:
            self._compute(turn)
            self._compute(turn)
            for array, value in zip(state, kept, strict=True):
                array[...] = value
            self._stream.synchronize()
            self._stream.begin_capture()
            self._compute(turn)
            return self._stream.end_capture()

    def __call__(self, x: Array) -> None:
        """Launch the function on a batch asynchronously; the caller's stream may then change x."""
        turn, self._turn = self._turn, 1 - self._turn
        if x.shape != self._inputs[turn].shape:
            raise ValueError(
                f"x: shape {x.shape}; expected {self._inputs[turn].shape}, as captured in the graph"
            )
        caller = self._cuda.get_current_stream()
        self._copies.wait_event(caller.record())  # x has been written
        self._copies.wait_event(self._done[turn])  # the buffer's last reader is done
        with self._copies:
            self._inputs[turn][...] = x
        copied = self._copies.record()
        caller.wait_event(copied)  # only then may the caller change x
        self._stream.wait_event(copied)
        self._graphs[turn].launch(self._stream)
        self._done[turn] = self._stream.record()

    def result(self) -> Array:
        """Make the caller's stream wait for the last launch and return its 0-d result."""
        self._cuda.get_current_stream().wait_event(self._done[1 - self._turn])
        return self._results[1 - self._turn]

    def between_launches(self) -> Any:
        """Return a context in which work on the graphs' arrays precedes the next launch."""
        return self._stream
