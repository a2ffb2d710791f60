"""Losses: the number J, a mean over all elements, and the error E at the reconstruction.

E is dJ/dR taken back through the output activation, as the decoder's gradients want it
(*Deep Learning*, section 9.5: the tensor E of equation 9.12).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from convae.activations import Activation
from convae.engine import Array, array_module, compiled_passes, rows


@dataclass(frozen=True)
class Loss:
    """A loss by name.

    Parameters
    ----------
    name : str
        The name used in configurations.
    function : callable
        ``function(R, x, f_out, count)`` returns J, a 0-d array, and E of R's shape.
    outputs : tuple of str
        Output activations that it accepts; empty for all.
    """

    name: str
    function: Callable[[Array, Array, Activation, int], tuple[Array, Array]]
    outputs: tuple[str, ...] = ()

    def __call__(
        self, R: Array, x: Array, f_out: Activation, count: int | None = None
    ) -> tuple[Array, Array]:
        """Compare a reconstruction with its target.

        Parameters
        ----------
        R : (N, C, *size) ndarray
            The reconstruction, f_out of something.
        x : (N, C, *size) ndarray
            The target.
        f_out : Activation
            The output activation.
        count : int, optional
            Elements over which the mean is taken; those of R if not given. The parts of a batch are
            each given the whole batch's, and their J and E then add up to the batch's.

        Returns
        -------
        J : 0-d ndarray
            The sum over the elements of R, divided by the count.
        E : (N, C, *size) ndarray
            The gradient of J before f_out.
        """
        return self.function(R, x, f_out, R.size if count is None else count)


def _mse(R: Array, x: Array, f_out: Activation, count: int) -> tuple[Array, Array]:
    """``J = mean((R - x)**2)``, ``dJ/dR = 2 (R - x) / count``."""
    xp = array_module(R, x, names="reconstruction and target")
    shown = rows(R, x)
    if shown is not None and f_out.quadratic is not None:
        E = np.empty_like(R)
        numbers = map(R.dtype.type, (2 / count, *f_out.quadratic))
        J = compiled_passes().squared_error(*(rows(E) or ()), *shown, *numbers) / count
        return np.asarray(J), E
    E = R - x
    J = xp.square(E).sum(dtype=xp.float64) / count
    E *= 2 / count
    return J, f_out.gradient(E, R)


def _bce(R: Array, x: Array, f_out: Activation, count: int) -> tuple[Array, Array]:
    """``J = -mean(x log R + (1 - x) log(1 - R))``; through the sigmoid, ``E = (R - x) / count``.

    Where R or 1 - R rounds to zero, the logarithm is that of the smallest normal number.
    """
    xp = array_module(R, x, names="reconstruction and target")
    smallest = xp.finfo(R.dtype).tiny
    log_R = xp.log(xp.maximum(R, smallest))
    log_not_R = xp.log(xp.maximum(1 - R, smallest))
    J = -(log_not_R + x * (log_R - log_not_R)).sum(dtype=xp.float64) / count
    E = R - x
    E *= 1 / count
    return J, E


LOSSES = {loss.name: loss for loss in (Loss("mse", _mse), Loss("bce", _bce, ("sigmoid",)))}


def loss(name: str, output_activation: str) -> Loss:
    """Look a loss up by its name.

    Parameters
    ----------
    name : str
        "mse", the mean squared error, or "bce", the mean binary cross-entropy.
    output_activation : str
        The activation it will be used with.

    Returns
    -------
    Loss
        The loss.

    Raises
    ------
    ValueError
        If there is none of that name, or if it needs another output activation.
    """
    if name not in LOSSES:
        raise ValueError(f"loss: {name!r} is unknown; use one of {', '.join(LOSSES)}")
    found = LOSSES[name]
    if found.outputs and output_activation not in found.outputs:
        raise ValueError(
            f"loss: {name!r} reads reconstructions as probabilities; with it, "
            f"output_activation has to be {' or '.join(found.outputs)}, not {output_activation!r}"
        )
    return found
