"""Activation functions and their gradients, each gradient computed from the function's output.

That f'(Z) can be written in terms of H = f(Z) is why no pre-activation is ever kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from types import ModuleType

from convae.biases import add_bias
from convae.engine import Array, array_module, compiled_passes, rows

LEAK = 0.01
"""Slope of leaky_relu below zero."""


@dataclass(frozen=True)
class Activation:
    """An elementwise function f and its derivative.

    Parameters
    ----------
    name : str
        The name used in configurations.
    function : callable
        ``function(xp, Z)`` turns Z into f(Z), in place.
    derivative : callable or None
        ``derivative(xp, H)`` returns f'(Z) from H = f(Z); None where it is 1 everywhere.
    curvature : callable or None
        ``curvature(xp, H)`` returns f''(Z) from H = f(Z); None where it is 0 almost everywhere.
    gain : float
        Variance of the initial kernel's products that keeps a signal's size: 2 where half of it
        is cut off (He et al. 2015), else 1 (Glorot and Bengio 2010).
    range : (float, float)
        The least and the largest value that f can take or come near to.
    slope : float or None
        f's slope below zero where it is linear on both sides of it, 1 above.
    quadratic : tuple of float or None
        (p, q, r, below): f'(Z) = p + q*H + r*H**2, times below where H is not positive.
    """

    name: str
    function: Callable[[ModuleType, Array], None]
    derivative: Callable[[ModuleType, Array], Array] | None
    curvature: Callable[[ModuleType, Array], Array] | None
    gain: float
    range: tuple[float, float]
    slope: float | None = None
    quadratic: tuple[float, float, float, float] | None = None

    def __call__(self, Z: Array, b: Array | None = None) -> Array:
        """Apply f in place: ``H = f(Z + b)``.

        Parameters
        ----------
        Z : ndarray
            Any shape, (N, C, *size) where there is a bias; overwritten.
        b : (C,) or (C, *tile) ndarray, optional
            A bias, as in `convae.biases.add_bias`.

        Returns
        -------
        ndarray
            The same array, now H = f(Z).
        """
        shown = rows(Z)
        if self.slope is not None and shown is not None and b is not None and b.ndim == 1:
            compiled_passes().add_and_bend(*shown, b, Z.dtype.type(self.slope))
        else:
            self.function(array_module(Z), add_bias(Z, b))
        return Z

    def gradient(self, dH: Array, H: Array) -> Array:
        """Take a gradient back through f: ``dZ = dH * f'(Z)``.

        Parameters
        ----------
        dH : ndarray
            Gradient at the output; overwritten.
        H : ndarray
            The output, f(Z), of the same shape.

        Returns
        -------
        ndarray
            The array dH, now dZ.
        """
        shown = rows(dH, H)
        if self.derivative is not None and self.quadratic is not None and shown is not None:
            flat = (array.reshape(-1) for array in shown)
            compiled_passes().times_derivative(*flat, *map(H.dtype.type, self.quadratic))
        elif self.derivative is not None:
            dH *= self.derivative(array_module(H), H)
        return dH


def _identity(xp: ModuleType, Z: Array) -> None:
    """Leave Z as it is."""


def _relu(xp: ModuleType, Z: Array) -> None:
    xp.maximum(Z, 0, out=Z)


def _leaky_relu(xp: ModuleType, Z: Array) -> None:
    xp.maximum(Z, LEAK * Z, out=Z)


def _sigmoid(xp: ModuleType, Z: Array) -> None:
    xp.negative(Z, out=Z)
    xp.minimum(Z, 80, out=Z)  # exp overflows float32 beyond 88; 1 / (1 + exp(80)) is 0 to any use
    xp.exp(Z, out=Z)
    Z += 1
    xp.reciprocal(Z, out=Z)


def _tanh(xp: ModuleType, Z: Array) -> None:
    xp.tanh(Z, out=Z)


def _softplus(xp: ModuleType, Z: Array) -> None:
    positive = xp.maximum(Z, 0)
    xp.absolute(Z, out=Z)
    xp.negative(Z, out=Z)
    xp.exp(Z, out=Z)
    xp.log1p(Z, out=Z)
    Z += positive


def _softplus_curvature(xp: ModuleType, H: Array) -> Array:
    not_slope = xp.exp(-H)  # f' = 1 - exp(-H), the sigmoid of Z, and so f'' = f' (1 - f')
    return not_slope * (1 - not_slope)


ACTIVATIONS = {
    activation.name: activation
    for activation in (
        Activation("identity", _identity, None, None, 1, (-inf, inf), 1, (1, 0, 0, 1)),
        Activation("relu", _relu, lambda xp, H: H > 0, None, 2, (0, inf), 0, (1, 0, 0, 0)),
        Activation(
            "leaky_relu",
            _leaky_relu,
            lambda xp, H: xp.where(H > 0, H.dtype.type(1), H.dtype.type(LEAK)),
            None,
            2,
            (-inf, inf),
            LEAK,
            (1, 0, 0, LEAK),
        ),
        Activation(
            "sigmoid",
            _sigmoid,
            lambda xp, H: H * (1 - H),
            lambda xp, H: H * (1 - H) * (1 - 2 * H),
            1,
            (0, 1),
            None,
            (0, 1, -1, 1),
        ),
        Activation(
            "tanh",
            _tanh,
            lambda xp, H: 1 - H * H,
            lambda xp, H: 2 * H * (H * H - 1),
            1,
            (-1, 1),
            None,
            (1, 0, -1, 1),
        ),
        Activation(
            "softplus", _softplus, lambda xp, H: -xp.expm1(-H), _softplus_curvature, 1, (0, inf)
        ),
    )
}


def activation(name: str, argument: str = "activation") -> Activation:
    """Look an activation up by its name.

    Parameters
    ----------
    name : str
        A key of `ACTIVATIONS`.
    argument : str
        What the error calls it.

    Returns
    -------
    Activation
        The function and its derivative.

    Raises
    ------
    ValueError
        If there is none of that name; the message lists all.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"{argument}: {name!r} is unknown; use one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
