"""One training step."""

from __future__ import annotations

import warnings
from math import inf
from numbers import Real

from convae.autoencoder import Autoencoder
from convae.engine import Array
from convae.optimizers import Optimizer
from convae.penalties import NONE, Penalty


class TrainingStep:
    """Loss, gradients and update in one call.

    Parameters
    ----------
    model : Autoencoder
        The model whose parameters are updated in place.
    optimizer : Optimizer
        What updates them; it belongs to this model from now on.
    clip_norm : float, optional
        Gradients whose norm, over all parameters together, exceeds this are shortened to it
        (Pascanu et al. 2013).
    penalty : Penalty
        What is added to the loss.

    Raises
    ------
    TypeError
        If model or optimizer is something else.
    ValueError
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
                raise TypeError(f"{name}: {value!r} is not a convae {kind.__name__}")
        if clip_norm is not None and not (isinstance(clip_norm, Real) and 0 < clip_norm < inf):
            raise ValueError(f"clip_norm: {clip_norm!r} will not do; use a positive number")
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
            The loss before the update, penalties included, on the device, not yet waited for.

        Warns
        -----
        UserWarning
            If the first batch's targets lie where the output activation cannot come.

        Raises
        ------
        TypeError, ValueError
            If dtype, device or shape do not fit.
        """
        loss = self.model.accumulate_gradients(x, target, self.penalty)
        if self._is_first:
            self._is_first = False
            self._compare_ranges(x if target is None else target)
        gradients = self.model.flat_gradients
        if self.clip_norm is not None:
            norm = self.model.xp.sqrt(self.model.xp.dot(gradients, gradients))
            gradients *= self.clip_norm / self.model.xp.maximum(norm, self.clip_norm)
        self.optimizer.update(self.model.flat_parameters, gradients)
        return loss

    def _compare_ranges(self, target: Array) -> None:
        """Warn of targets that no reconstruction can reach."""
        f_out = self.model.output_activation
        low, high = f_out.range
        least, largest = float(target.min()), float(target.max())
        if least < low or largest > high:
            warnings.warn(
                f"the images range from {least:g} to {largest:g}, but output_activation "
                f"{f_out.name!r} only reaches from {low:g} to {high:g}; scale the images, or use "
                "'identity'",
                stacklevel=3,
            )
