"""A training step as one CUDA graph, for models on a GPU.

Not in use by `convae.trainer` yet: it has to be run on a card first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from convae.autoencoder import Autoencoder
from convae.engine import Array
from convae.optimizers import Adam, AdamW


class CapturedStep:
    """Loss, gradients and Adam's update, launched as one graph.

    The graph is recorded twice, for two input buffers, so that a batch can be copied while the
    step before it is computed: nothing waits for a step but `loss`. The memory is the graphs' own
    and is kept. cuBLAS cannot be recorded, so c, h and g are `convae.engine.cuda`'s.

    Parameters
    ----------
    model : Autoencoder
        The model, in float32 on a GPU, whose parameters are updated in place.
    optimizer : Adam or AdamW
        Its numbers; the moments and the step count are kept on the card from now on.
    batch : int
        Examples of every batch.

    Attributes
    ----------
    adam : convae.engine.cuda.Adam
        The update; change its learning rate by `set_learning_rate`.

    Raises
    ------
    TypeError
        If the optimizer is another one.
    ValueError
        If the model is not in float32 on a GPU, or the optimizer has done steps.
    """

    def __init__(self, model: Autoencoder, optimizer: Adam, batch: int) -> None:
        if type(optimizer) not in (Adam, AdamW):
            raise TypeError(f"optimizer: {optimizer!r} cannot be recorded; use Adam or AdamW")
        if model.device != "gpu" or model.dtype != "float32":
            raise ValueError(
                f"model: {model!r}; a graph is recorded of a float32 model with device='gpu'"
            )
        if optimizer.steps:
            raise ValueError(f"optimizer: it has done {optimizer.steps} steps; use a fresh one")
        import cupy

        from convae.engine import cuda, gpu  # here, since they import CuPy, too

        decay = "parameter_decay" if isinstance(optimizer, AdamW) else "gradient_decay"
        self.model = model
        self.adam = cuda.Adam(
            model.flat_parameters.size,
            optimizer.beta1,
            optimizer.beta2,
            optimizer.epsilon,
            **{decay: optimizer.weight_decay},
        )
        self.adam.learning_rate[...] = optimizer.learning_rate
        self._cuda = cupy.cuda
        self._own_kernels = gpu.own_kernels
        self._memory = self._cuda.MemoryPool()
        self._stream = self._cuda.Stream(non_blocking=True)
        self._copies = self._cuda.Stream(non_blocking=True)
        self._turn = 0
        with self._cuda.using_allocator(self._memory.malloc):
            shape = batch, *model.input_shape
            self._inputs = [model.xp.zeros(shape, np.float32) for _ in range(2)]
            self._losses = [model.xp.zeros((), np.float64) for _ in range(2)]
        self._cuda.Device().synchronize()
        self._graphs = [self._record(self._body(turn)) for turn in range(2)]
        self._done = [self._stream.record() for _ in range(2)]

    def _body(self, turn: int) -> Callable[[], None]:
        """Write what one graph does: only launches, and memory from its own pool."""

        def body() -> None:
            model = self.model
            self._losses[turn][...] = model.accumulate_gradients(self._inputs[turn])
            self.adam.update(model.flat_parameters, model.flat_gradients)

        return body

    def _record(self, body: Callable[[], None]) -> Any:
        """Record a graph, after two runs that compile all kernels and take all memory."""
        state = [
            self.model.flat_parameters,
            self.adam.first,
            self.adam.second,
            self.adam.steps,
        ]
        kept = [array.copy() for array in state]
        self._cuda.Device().synchronize()
        allocator = self._cuda.using_allocator(self._memory.malloc)
        with self._own_kernels(), allocator, self._stream:
            body()
            body()
            for array, value in zip(state, kept, strict=True):
                array[...] = value
            self._stream.synchronize()
            self._stream.begin_capture()
            body()
            return self._stream.end_capture()

    def __call__(self, x: Array) -> None:
        """Do one step, without waiting for it.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            A batch of images, as many as were announced.

        Raises
        ------
        TypeError, ValueError
            If dtype, device or shape do not fit.
        """
        self.model._check("x", x, self.model.input_shape)
        turn, self._turn = self._turn, 1 - self._turn
        if x.shape != self._inputs[turn].shape:
            raise ValueError(
                f"x: shape {x.shape}, but the graph was recorded for {self._inputs[turn].shape}"
            )
        caller = self._cuda.get_current_stream()
        self._copies.wait_event(caller.record())  # x is complete
        self._copies.wait_event(self._done[turn])  # the step that last read the buffer is over
        with self._copies:
            self._inputs[turn][...] = x
        copied = self._copies.record()
        caller.wait_event(copied)  # x may be changed
        self._stream.wait_event(copied)
        self._graphs[turn].launch(self._stream)
        self._done[turn] = self._stream.record()

    def loss(self) -> Array:
        """Have the caller's stream wait for the last step, whose loss and parameters it may read.

        Returns
        -------
        0-d ndarray
            The loss before the last update, on the card; the next call but one overwrites it.
        """
        self._cuda.get_current_stream().wait_event(self._done[1 - self._turn])
        return self._losses[1 - self._turn]

    def set_learning_rate(self, learning_rate: float) -> None:
        """Change the size of the steps that follow.

        Parameters
        ----------
        learning_rate : float
            Size of a step.
        """
        with self._stream:
            self.adam.learning_rate[...] = learning_rate
