"""A training step as a CUDA graph, for models on a GPU.

Implemented, disabled until certified on hardware: the trainer does not use it yet.
"""

from __future__ import annotations

from convae.engine import Array
from convae.engine.gpu import cuda
from convae.engine.gpu.graph import DoubleBufferedGraph
from convae.errors import UserError, UserTypeError
from convae.models.autoencoder import Autoencoder
from convae.training.optimizers import Adam, AdamW


class CapturedStep:
    """Loss, gradients and Adam's update, launched as one graph; see `DoubleBufferedGraph`.

    Parameters
    ----------
    model : Autoencoder
        A float32 model on a `convae.engine.gpu.cuda.KernelBackend`; updated in place.
    optimizer : Adam or AdamW
        Its numbers; from now on the moments and the step count are kept on the card.
    batch : int
        Examples of every batch.

    Attributes
    ----------
    adam : convae.engine.gpu.cuda.Adam
        The update; change its learning rate by `set_learning_rate`.

    Raises
    ------
    UserTypeError
        If the optimizer is another one.
    UserError
        If the model is another one, or the optimizer has done steps.
    """

    def __init__(self, model: Autoencoder, optimizer: Adam, batch: int) -> None:
        if type(optimizer) not in (Adam, AdamW):
            raise UserTypeError(f"optimizer: {optimizer!r} cannot be recorded; use Adam or AdamW")
        backend = model.backend
        if not isinstance(backend, cuda.KernelBackend) or model.dtype != "float32":
            raise UserError(f"model: {model!r}; expected float32 on a backend of CUDA kernels")
        if optimizer.steps:
            raise UserError(f"optimizer: it has done {optimizer.steps} steps; use a fresh one")
        decay = "parameter_decay" if isinstance(optimizer, AdamW) else "gradient_decay"
        self.model = model
        self.adam = cuda.Adam(
            backend,
            model.flat_parameters.size,
            optimizer.beta1,
            optimizer.beta2,
            optimizer.epsilon,
            **{decay: optimizer.weight_decay},
        )
        self.adam.learning_rate[...] = optimizer.learning_rate
        state = [model.flat_parameters, self.adam.first, self.adam.second, self.adam.steps]
        shape = batch, *model.input_shape
        self._graph = DoubleBufferedGraph(backend.xp, self._step, shape, state)

    def _step(self, x: Array) -> Array:
        loss = self.model.accumulate_gradients(x)
        self.adam.update(self.model.flat_parameters, self.model.flat_gradients)
        return loss

    def __call__(self, x: Array) -> None:
        """Do one step, without waiting for it.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            A batch of images, as many as announced.

        Raises
        ------
        UserTypeError, UserError
            If dtype, device or shape do not fit.
        """
        x, _ = self.model.check_batch(x)
        self._graph(x)

    def loss(self) -> Array:
        """Have the caller's stream wait for the last step, whose loss and parameters it may read.

        Returns
        -------
        0-d ndarray
            The loss before the last update, on the card; the next call but one overwrites it.
        """
        return self._graph.result()

    def set_learning_rate(self, learning_rate: float) -> None:
        """Change the size of the steps that follow.

        Parameters
        ----------
        learning_rate : float
            Size of a step.
        """
        with self._graph.between_launches():
            self.adam.learning_rate[...] = learning_rate
