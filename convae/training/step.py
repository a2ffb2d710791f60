"""One training step: gradients, clipping, update, moving average.

The gradients are `convae.models.backpropagation`: encode up, decode down, loss, and back. On a GPU
all of it is one program instead, `convae.training.planned_step`.
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

from convae.engine import Array
from convae.errors import DivergenceError, UserError, UserTypeError, check_choice, check_range
from convae.models.model import Model
from convae.models.penalties import NONE, Penalty
from convae.processes import ALONE, Group, Share
from convae.training.averaging import MovingAverage
from convae.training.optimizers import Optimizer

if TYPE_CHECKING:
    from convae.training.gpu_step import GpuStep

GPU_ENGINES = ("auto", "portable", "fast")


class TrainingStep:
    """Loss, gradients and update in one call.

    Parameters
    ----------
    model : Model
        The model whose parameters are updated in place.
    optimizer : Optimizer
        Updates them; its state belongs to this model from now on.
    clip_norm : float, optional
        Gradients whose norm, over all parameters together, exceeds this are scaled down to it
        (Pascanu et al. 2013).
    penalty : Penalty
        Terms added to the loss.
    average : MovingAverage, optional
        Follows the parameters.
    gpu_engine : {"auto", "portable", "fast"}
        What does the step of a model on a GPU. "portable" is array code and cuBLAS. "fast" records
        the step as a CUDA graph of ways that were found right on this card, see `convae gpu`.
        "auto" does so too, but goes back to array code, with a warning, where the result of a
        whole step is not the same.
    group : Group
        The processes that share each batch; all of them have to do every step.

    Raises
    ------
    UserTypeError
        If model or optimizer is something else.
    UserError
        If clip_norm is not positive, the penalty does not fit the model, or gpu_engine is unknown
        or asks for something of a model on the CPU.
    """

    def __init__(
        self,
        model: Model,
        optimizer: Optimizer,
        clip_norm: float | None = None,
        penalty: Penalty = NONE,
        average: MovingAverage | None = None,
        gpu_engine: str = "auto",
        group: Group = ALONE,
    ) -> None:
        for name, value, kind in (
            ("model", model, Model),
            ("optimizer", optimizer, Optimizer),
            ("penalty", penalty, Penalty),
        ):
            if not isinstance(value, kind):
                raise UserTypeError(f"{name}: {value!r} is not a convae {kind.__name__}")
        if clip_norm is not None:
            check_range("clip_norm", clip_norm, over=0)
        self.model = model
        self.optimizer = optimizer
        optimizer.claim(model)
        model.freeze()
        model.check_penalty(penalty)
        check_engine(gpu_engine, model.device)
        self.clip_norm = clip_norm
        self.penalty = penalty
        self.average = average
        self.group = model.group = group
        self._is_first = True
        self._planned: GpuStep | None = None
        if gpu_engine == "fast" and not model.has_program:
            raise UserError(
                "gpu_engine: 'fast' is for autoencoders without winner-take-all; leave it out"
            )
        if gpu_engine == "fast" and group.size > 1:
            raise UserError("gpu_engine: 'fast' is for one process; leave it out")
        is_fast = model.device == "gpu" and gpu_engine != "portable" and group.size == 1
        if is_fast and model.has_program:
            from convae.training.gpu_step import GpuStep  # needs CuPy

            self._planned = GpuStep(self, is_forced=gpu_engine == "fast")

    def __call__(self, x: Array, target: Array | None = None, share: Share | None = None) -> Array:
        """Do one step.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            A batch of images.
        target : (N, C, *size) ndarray, optional
            What the reconstructions are compared with; x itself if not given.
        share : Share, optional
            Which part of the whole batch x is, where several processes share it.

        Returns
        -------
        0-d ndarray
            The loss before the update, penalties included, on the device; reading it waits for
            the step. It is of the whole batch.

        Warns
        -----
        UserWarning
            If the first batch's targets are outside the output activation's range.

        Raises
        ------
        UserTypeError, UserError
            If dtype, device or shape do not fit.
        DivergenceError
            If the loss or a gradient is not finite; the parameters are unchanged. On a GPU, where
            nothing waits for the loss, the gradient counts as zero instead.
        """
        with self.model.lock:
            return self._step(x, target, share)

    def _step(self, x: Array, target: Array | None, share: Share | None) -> Array:
        model = self.model
        self._weigh(share)
        x, target = model.check_batch(x, target)
        loss = self.portable(x, target) if self._planned is None else self._planned(x, target)
        if self._is_first:
            self._is_first = False
            model.compare_range("images", target, stacklevel=4)
        return loss

    def portable(self, x: Array, target: Array) -> Array:
        """Do one step by array code, on checked images.

        Parameters
        ----------
        x, target : (N, C, *size) ndarray
            Images; the target may be x itself.

        Returns
        -------
        0-d ndarray
            The loss before the update.
        """
        model = self.model
        loss = model.accumulate_gradients(x, target, self.penalty)
        loss = self.group.combine(model.flat_gradients, loss)
        self._check_finite(loss)
        gradients = model.flat_gradients
        if self.clip_norm is not None:
            norm = model.xp.sqrt(model.xp.square(gradients).sum())
            gradients *= self.clip_norm / model.xp.maximum(norm, self.clip_norm)
        self.optimizer.update(model.flat_parameters, gradients, model.backend)
        model.constrain()
        if self.average is not None:
            self.average.update(self.optimizer.steps)
        return loss

    def measure(self, x: Array, target: Array, share: Share | None = None) -> Array:
        """Measure the loss of a batch, penalties included, and leave all as it was.

        Parameters
        ----------
        x, target, share
            As in a step.

        Returns
        -------
        0-d ndarray
            The loss of the whole batch.

        Raises
        ------
        UserTypeError, UserError
            If dtype, device or shape do not fit.
        """
        self._weigh(share)
        loss = self.model.accumulate_gradients(x, target, self.penalty)
        return self.group.combine(self.model.flat_gradients, loss)

    def _weigh(self, share: Share | None) -> None:
        """Say what part of the whole batch is this process's."""
        if share is None and self.group.size > 1:
            raise UserError(
                f"share: none given, but {self.group.size} processes share each batch; expected "
                "group.share(<examples of the whole batch>)"
            )
        self.group.weight = 1.0 if share is None else share.weight

    def evaluate(self, x: Array, target: Array | None = None) -> tuple[Array, Array]:
        """Do what `convae.Model.evaluate` does, on a GPU by the engine of the step.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            Images.
        target : (N, C, *size) ndarray, optional
            What the reconstructions are compared with; x itself if not given.

        Returns
        -------
        loss : 0-d ndarray
            Mean over all elements of the batch, on the device.
        R : (N, C, *size) ndarray
            The reconstructions.

        Raises
        ------
        UserTypeError, UserError
            If dtype, device or shape do not fit.
        """
        if self._planned is None:
            return self.model.evaluate(x, target)
        with self.model.lock:
            return self._planned.evaluate(*self.model.check_batch(x, target))

    def _check_finite(self, loss: Array) -> None:
        """Refuse an update that would spoil all parameters; on a GPU zero the gradient instead."""
        xp, gradients = self.model.xp, self.model.flat_gradients
        energy = loss + xp.dot(gradients, gradients)
        if self.model.device == "gpu":
            gradients[...] = xp.where(xp.isfinite(energy), gradients, 0)
        elif not isfinite(float(energy)):
            raise DivergenceError(
                f"the loss is {float(loss)}, or a gradient is not finite; the parameters are "
                "unchanged. Lower the learning rate, or set clip_norm=1"
            )


def check_engine(gpu_engine: str, device: str) -> None:
    """Refuse an unknown engine, and any choice of one for a model on the CPU."""
    check_choice("gpu_engine", gpu_engine, GPU_ENGINES)
    if device == "cpu" and gpu_engine != "auto":
        raise UserError(
            f"gpu_engine: {gpu_engine!r} is for a GPU, and the model is on the CPU; leave it out"
        )
