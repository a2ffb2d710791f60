"""Losses: the number J, a mean over all elements, and the error E at the reconstruction.

E is dJ/dR taken back through the output activation, as the decoder's gradients need it
(*Deep Learning*, section 9.5: the tensor E of equation 9.12).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from convae.engine import Array, Backend
from convae.errors import UserError, check_choice
from convae.models import similarity
from convae.models.activations import Activation

Function: TypeAlias = Callable[[Backend, Array, Array, Activation, int], tuple[Array, Array]]


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A loss by name.

    Parameters
    ----------
    name : str
        The name used in configurations.
    function : callable
        ``function(backend, R, x, f_out, count)`` returns J, a sum over R's elements divided by
        `count`, as a 0-d array, and E of R's shape, the gradient of J before f_out;
        ``backend.activation_gradient(E, R, f_out)`` takes dJ/dR there.
    outputs : tuple of str
        Output activations that it accepts; empty for all.
    of_logits : bool
        Whether it compares what goes into the output activation, instead of what comes out.
    """

    name: str
    function: Function
    outputs: tuple[str, ...] = ()
    of_logits: bool = False

    def __call__(
        self, backend: Backend, R: Array, x: Array, f_out: Activation, count: int | None = None
    ) -> tuple[Array, Array]:
        """Compare a reconstruction with its target.

        Parameters
        ----------
        backend : Backend
            What computes.
        R : (N, C, *size) ndarray
            The reconstruction, an output of f_out; what goes into it, if the loss is `of_logits`.
        x : (N, C, *size) ndarray
            The target.
        f_out : Activation
            The output activation.
        count : int, optional
            Elements over which the mean is taken; those of R by default. Chunks of a batch are
            given the whole batch's, and their J and E then add up to the batch's.

        Returns
        -------
        J : 0-d ndarray
            The sum over the elements of R, divided by the count.
        E : (N, C, *size) ndarray
            The gradient of J before f_out.
        """
        return self.function(backend, R, x, f_out, R.size if count is None else count)

    def __reduce__(self) -> tuple[Callable[[str], Loss], tuple[str]]:
        """Copy it by its name."""
        return _named, (self.name,)


def _mse(
    backend: Backend, R: Array, x: Array, f_out: Activation, count: int
) -> tuple[Array, Array]:
    """``J = mean((R - x)**2)``, ``dJ/dR = 2 (R - x) / count``."""
    return backend.squared_error(R, x, f_out, count)


def _bce(
    backend: Backend, A: Array, x: Array, f_out: Activation, count: int
) -> tuple[Array, Array]:
    """``J = -mean(x log R + (1 - x) log(1 - R))`` with R the sigmoid of A; ``E = (R - x) / count``.

    In terms of A it is ``mean(max(A, 0) - x A + log(1 + exp(-|A|)))``, which does not saturate.
    """
    xp = backend.xp
    terms = xp.maximum(A, 0) - x * A + xp.log1p(xp.exp(-xp.abs(A)))
    J = xp.asarray(terms.sum(dtype=xp.float64) / count)
    E = A.copy()
    f_out.function(xp, E)
    E -= x
    E *= 1 / count
    return J, E


def _l1(backend: Backend, R: Array, x: Array, f_out: Activation, count: int) -> tuple[Array, Array]:
    """``J = mean(|R - x|)``, ``dJ/dR = sign(R - x) / count``."""
    xp = backend.xp
    difference = R - x
    J = xp.asarray(xp.abs(difference).sum(dtype=xp.float64) / count)
    E = xp.sign(difference)
    E *= 1 / count
    return J, backend.activation_gradient(E, R, f_out)


def _ssim(
    backend: Backend, R: Array, x: Array, f_out: Activation, count: int
) -> tuple[Array, Array]:
    """``J = mean(1 - SSIM)`` over all places of the window; see `convae.models.similarity`."""
    xp = backend.xp
    S, slope = similarity.gradient(x, R)
    scale = R.size / (S.size * count)  # a place of the window stands for some elements
    J = xp.asarray((1 - S).sum(dtype=xp.float64) * scale)
    E = xp.empty_like(R)  # in its memory order
    E[...] = slope
    E *= -scale
    return J, backend.activation_gradient(E, R, f_out)


MSE = Loss(name="mse", function=_mse)
BCE = Loss(name="bce", function=_bce, outputs=("sigmoid",), of_logits=True)

L1 = Loss(name="l1", function=_l1)
SSIM = Loss(name="ssim", function=_ssim)

LOSSES = {loss.name: loss for loss in (MSE, BCE, L1, SSIM)}
"""All losses by name."""


def _named(name: str) -> Loss:
    """Look up a loss that is being unpickled."""
    return LOSSES[name]


def loss(name: str, output_activation: str) -> Loss:
    """Look up a loss; a `UserError` says if it is unknown or needs another output activation."""
    check_choice("loss", name, LOSSES)
    found = LOSSES[name]
    if found.outputs and output_activation not in found.outputs:
        raise UserError(
            f"loss: {name!r} reads reconstructions as probabilities; with it, "
            f"output_activation has to be {' or '.join(found.outputs)}, not {output_activation!r}"
        )
    return found
