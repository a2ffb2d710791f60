"""Activation functions and their derivatives, each derivative computed from the function's output.

Because f'(Z) can be written in terms of H = f(Z), no pre-activation is ever kept. What applies them
to arrays is the backend: `convae.engine.Backend.activate` and `activation_gradient`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from types import ModuleType

from convae.engine import Array
from convae.errors import check_choice

LEAK = 0.01
"""Slope of leaky_relu below zero."""


@dataclass(frozen=True, kw_only=True)
class Activation:
    """An elementwise function f and its derivatives.

    Parameters
    ----------
    name : str
        The name used in configurations.
    function : callable
        ``function(xp, Z)`` replaces Z by f(Z), in place.
    derivative : callable or None
        ``derivative(xp, H)`` returns f'(Z) from H = f(Z); None where it is 1 everywhere.
    curvature : callable or None
        ``curvature(xp, H)`` returns f''(Z) from H = f(Z); None where it is 0 almost everywhere.
    gain : float
        Factor on the initial kernel's variance that preserves a signal's size: 2 where half of it
        is cut off (He et al. 2015), else 1 (Glorot and Bengio 2010).
    range : (float, float)
        The infimum and the supremum of f.
    slope : float or None
        The slope below zero of a piecewise linear f whose slope above zero is 1.
    quadratic : tuple of float or None
        (p, q, r, below) where f'(Z) = p + q*H + r*H**2, times below where H is not positive.
    """

    name: str
    function: Callable[[ModuleType, Array], None]
    derivative: Callable[[ModuleType, Array], Array] | None = None
    curvature: Callable[[ModuleType, Array], Array] | None = None
    gain: float = 1.0
    range: tuple[float, float] = (-inf, inf)
    slope: float | None = None
    quadratic: tuple[float, float, float, float] | None = None

    def __reduce__(self) -> tuple[Callable[[str], Activation], tuple[str]]:
        """Copy it by its name: functions without one cannot be pickled."""
        return activation, (self.name,)


def _identity(xp: ModuleType, Z: Array) -> None:
    """Leave Z as it is."""


def _relu(xp: ModuleType, Z: Array) -> None:
    xp.maximum(Z, 0, out=Z)


def _leaky_relu(xp: ModuleType, Z: Array) -> None:
    xp.maximum(Z, LEAK * Z, out=Z)


def _leaky_relu_derivative(xp: ModuleType, H: Array) -> Array:
    return xp.where(H > 0, H.dtype.type(1), H.dtype.type(LEAK))


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


IDENTITY = Activation(name="identity", function=_identity, slope=1, quadratic=(1, 0, 0, 1))
RELU = Activation(
    name="relu",
    function=_relu,
    derivative=lambda xp, H: H > 0,
    gain=2,
    range=(0, inf),
    slope=0,
    quadratic=(1, 0, 0, 0),
)
LEAKY_RELU = Activation(
    name="leaky_relu",
    function=_leaky_relu,
    derivative=_leaky_relu_derivative,
    gain=2,
    slope=LEAK,
    quadratic=(1, 0, 0, LEAK),
)
SIGMOID = Activation(
    name="sigmoid",
    function=_sigmoid,
    derivative=lambda xp, H: H * (1 - H),
    curvature=lambda xp, H: H * (1 - H) * (1 - 2 * H),
    range=(0, 1),
    quadratic=(0, 1, -1, 1),
)
TANH = Activation(
    name="tanh",
    function=_tanh,
    derivative=lambda xp, H: 1 - H * H,
    curvature=lambda xp, H: 2 * H * (H * H - 1),
    range=(-1, 1),
    quadratic=(1, 0, -1, 1),
)
SOFTPLUS = Activation(
    name="softplus",
    function=_softplus,
    derivative=lambda xp, H: -xp.expm1(-H),
    curvature=_softplus_curvature,
    range=(0, inf),
)

ACTIVATIONS = {f.name: f for f in (IDENTITY, RELU, LEAKY_RELU, SIGMOID, TANH, SOFTPLUS)}
"""All activations by name; a new one is written above and listed here."""


def activation(name: str, argument: str = "activation") -> Activation:
    """Look up an activation; a `UserError` names the argument and lists all."""
    check_choice(argument, name, ACTIVATIONS)
    return ACTIVATIONS[name]
