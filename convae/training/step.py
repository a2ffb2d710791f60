"""One training step: gradients, clipping, update.

The gradients are `convae.models.backpropagation`: encode up, decode down, loss, and back.
"""

from __future__ import annotations

import warnings

from convae.engine import Array
from convae.errors import UserTypeError, check_range
from convae.models.autoencoder import Autoencoder
from convae.models.penalties import NONE, Penalty
from convae.training.optimizers import Optimizer


class TrainingStep:
    """Loss, gradients and update in one call.

    Parameters
    ----------
    model : Autoencoder
        The model whose parameters are updated in place.
    optimizer : Optimizer
        Updates them; its state belongs to this model from now on.
    clip_norm : float, optional
        Gradients whose norm, over all parameters together, exceeds this are scaled down to it
        (Pascanu et al. 2013).
    penalty : Penalty
        Terms added to the loss.

    Raises
    ------
    UserTypeError
        If model or optimizer is something else.
    UserError
        If clip_norm is not positive, or the penalty does not fit the model.
    """

    def __init__(
        self,
        model: Autoencoder,
        optimizer: Optimizer,
        clip_norm: float | None = None,
        penalty: Penalty = NONE,
    ) -> None:
        for name, value, kind in (
            ("model", model, Autoencoder),
            ("optimizer", optimizer, Optimizer),
            ("penalty", penalty, Penalty),
        ):
            if not isinstance(value, kind):
                raise UserTypeError(f"{name}: {value!r} is not a convae {kind.__name__}")
        if clip_norm is not None:
            check_range("clip_norm", clip_norm, over=0)
        self.model = model
        self.optimizer = optimizer
        model.check_penalty(penalty)
        self.clip_norm = clip_norm
        self.penalty = penalty
        self._is_first = True

    def __call__(self, x: Array, target: Array | None = None) -> Array:
        """Do one step.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            A batch of images.
        target : (N, C, *size) ndarray, optional
            What the reconstructions are compared with; x itself if not given.

        Returns
        -------
        0-d ndarray
            The loss before the update, penalties included, on the device; reading it waits for
            the step.

        Warns
        -----
        UserWarning
            If the first batch's targets are outside the output activation's range.

        Raises
        ------
        UserTypeError, UserError
            If dtype, device or shape do not fit.
        """
        model = self.model
        loss = model.accumulate_gradients(x, target, self.penalty)
        if self._is_first:
            self._is_first = False
            self._compare_ranges(x if target is None else target)
        gradients = model.flat_gradients
        if self.clip_norm is not None:
            norm = model.xp.sqrt(model.xp.dot(gradients, gradients))
            gradients *= self.clip_norm / model.xp.maximum(norm, self.clip_norm)
        self.optimizer.update(model.flat_parameters, gradients, model.backend)
        return loss

    def _compare_ranges(self, target: Array) -> None:
        """Warn of targets outside the output activation's range."""
        f_out = self.model.output_activation
        low, high = f_out.range
        least, largest = float(target.min()), float(target.max())
        if least < low or largest > high:
            warnings.warn(
                f"the images range from {least:g} to {largest:g}, but output_activation "
                f"{f_out.name!r} only ranges from {low:g} to {high:g}; scale the images, or use "
                "'identity'",
                stacklevel=3,
            )
