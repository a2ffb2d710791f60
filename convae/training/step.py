"""One training step: gradients, clipping, update, moving average.

The gradients are `convae.models.backpropagation`: encode up, decode down, loss, and back. On a GPU
all of it is one program instead, `convae.training.planned_step`.
"""

from __future__ import annotations

from itertools import pairwise
from math import isfinite
from typing import TYPE_CHECKING

from convae.engine import Array
from convae.errors import DivergenceError, UserError, UserTypeError, check_choice, check_range
from convae.models.autoencoder import Autoencoder
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
    accumulate : int
        In how many parts, one after the other, the gradients of a batch are computed, for models
        whose activations would not fit into memory together; at least 1.

    Raises
    ------
    UserTypeError
        If model or optimizer is something else.
    UserError
        If clip_norm or accumulate is not positive, the penalty does not fit the model, or
        gpu_engine is unknown or asks for something of a model on the CPU; or if parts are asked for
        of what is of a whole batch: ``penalty.kl``, and winners by their lifetime.
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
        accumulate: int = 1,
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
        check_range("accumulate", accumulate, at_least=1, integer=True)
        self.accumulate = accumulate
        self.group = model.group = group
        self._is_first = True
        self._planned: GpuStep | None = None
        if gpu_engine == "fast" and not model.has_program:
            raise UserError(
                "gpu_engine: 'fast' is for autoencoders without winner-take-all; leave it out"
            )
        of_batch = penalty.kl or (isinstance(model, Autoencoder) and model.winners.lifetime)
        if accumulate > 1 and of_batch:
            name = "penalty.kl" if penalty.kl else "model.lifetime"
            raise UserError(f"accumulate: {name} is of a whole batch, and not of parts; leave one")
        # a program has no other processes' examples
        is_fast = gpu_engine != "portable" and not (group.size > 1 and of_batch)
        if model.device == "gpu" and is_fast and model.has_program:
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
        is_whole = self._planned is not None and self.accumulate == self.group.size == 1
        if self._planned is not None and is_whole:
            loss = self._planned(x, target)
        else:
            loss = self.portable(x, target)
        if self._is_first:
            self._is_first = False
            model.compare_range("images", target, stacklevel=4)
        return loss

    def portable(self, x: Array, target: Array) -> Array:
        """Do one step, on checked images, whose update is array code.

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
        loss = self._gradients(x, target)
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
        return self._gradients(x, target)

    def _gradients(self, x: Array, target: Array) -> Array:
        """Leave the gradients of the whole batch in the model's; returns its loss."""
        model, parts = self.model, min(self.accumulate, len(x))
        if parts == 1:
            return self.group.combine(model.flat_gradients, self._of_part(x, target))
        ends = [len(x) * part // parts for part in range(parts + 1)]
        total, J = model.xp.zeros_like(model.flat_gradients), 0.0
        for start, end in pairwise(ends):
            some, weight = x[start:end], (end - start) / len(x)
            J = J + weight * self._of_part(some, some if target is x else target[start:end])
            total += weight * model.flat_gradients
        model.flat_gradients[...] = total
        return self.group.combine(model.flat_gradients, J)

    def _of_part(self, x: Array, target: Array) -> Array:
        """Leave the gradients of some examples in the model's; returns their loss."""
        if self._planned is not None:
            return self._planned.gradients(x, target)
        return self.model.accumulate_gradients(x, target, self.penalty)

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
