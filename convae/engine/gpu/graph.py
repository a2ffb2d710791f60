"""A recorded CUDA graph with two input buffers, so that copies overlap computation.

Disabled until certified on hardware, like `convae.engine.gpu.cuda`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from convae.engine.arrays import Array


class DoubleBufferedGraph:
    """A function of one batch, recorded twice: while one graph runs, the other's input is copied.

    The memory that the function allocates is the graphs' own and is kept. cuBLAS cannot be
    recorded through CuPy, so the function must not call it.

    Parameters
    ----------
    xp : module
        ``cupy``, or what stands in for it.
    function : callable
        ``function(x)`` returns a 0-d array; it may change arrays in place.
    shape : tuple of int
        Shape of x.
    state : sequence of ndarray
        The arrays that the function changes; recording leaves them as they are.
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
        """Do what one graph does: only launches, and memory from its own pool."""
        self._results[turn][...] = self._function(self._inputs[turn])

    def _record(self, turn: int, state: Sequence[Array]) -> Any:
        """Record a graph, after two runs that compile all kernels and allocate all memory."""
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
        """Launch the function on a batch, without waiting for it.

        x of the announced shape; it may be changed once the caller's stream comes to it.
        """
        turn, self._turn = self._turn, 1 - self._turn
        if x.shape != self._inputs[turn].shape:
            raise ValueError(
                f"x: shape {x.shape}, but the graph was recorded for {self._inputs[turn].shape}"
            )
        caller = self._cuda.get_current_stream()
        self._copies.wait_event(caller.record())  # x is complete
        self._copies.wait_event(self._done[turn])  # the graph that last read the buffer is done
        with self._copies:
            self._inputs[turn][...] = x
        copied = self._copies.record()
        caller.wait_event(copied)  # x may be changed
        self._stream.wait_event(copied)
        self._graphs[turn].launch(self._stream)
        self._done[turn] = self._stream.record()

    def result(self) -> Array:
        """Have the caller's stream wait for the last launch, whose 0-d result it may then read."""
        self._cuda.get_current_stream().wait_event(self._done[1 - self._turn])
        return self._results[1 - self._turn]

    def between_launches(self) -> Any:
        """Order work on arrays that the graphs read: a context manager, before the next launch."""
        return self._stream
