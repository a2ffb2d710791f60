"""One training step."""

from __future__ import annotations

from convae.autoencoder import Autoencoder
from convae.engine import Array
from convae.optimizers import Optimizer


class TrainingStep:
    """Loss, gradients and update in one call.

    Parameters
    ----------
    model : Autoencoder
        The model whose parameters are updated in place.
    optimizer : Optimizer
        What updates them; it belongs to this model from now on.

    Raises
    ------
    TypeError
        If one of them is something else.
    """

    def __init__(self, model: Autoencoder, optimizer: Optimizer) -> None:
        for name, value, kind in (
            ("model", model, Autoencoder),
            ("optimizer", optimizer, Optimizer),
        ):
            if not isinstance(value, kind):
                raise TypeError(f"{name}: {value!r} is not a convae {kind.__name__}")
        self.model = model
        self.optimizer = optimizer

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
            The loss before the update, on the device, not yet waited for.

        Raises
        ------
        TypeError, ValueError
            If dtype, device or shape do not fit.
        """
        loss = self.model.accumulate_gradients(x, target)
        self.optimizer.update(self.model.flat_parameters, self.model.flat_gradients)
        return loss
