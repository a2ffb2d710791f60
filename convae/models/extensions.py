"""Activations and losses of one's own, known by name from then on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from convae.errors import UserError, UserTypeError
from convae.models.activations import ACTIVATIONS, Activation
from convae.models.losses import LOSSES, Loss

OURS = {*ACTIVATIONS, *LOSSES}
"""Names that cannot be given again; others can, as when a notebook's cell is run twice."""

POINTS = np.linspace(-3, 3, 50) + 0.012345
"""Where an activation's derivatives are compared with differences: off the usual kinks."""

STEP = 1e-5
"""Half the distance of two points of a central difference."""

TOLERANCE = 1e-4
"""The largest error of a derivative, relative to 1."""


def register(new: Activation | Loss) -> None:
    """Make an activation or a loss known by its name.

    Models, configurations (``model.layers.0.activation=...``, ``loss.name=...``) and saved models
    then take the name. A process that loads such a model has to register it first.

    Parameters
    ----------
    new : Activation or Loss
        An activation's derivative, and its curvature if it has one, are compared with differences.

    Raises
    ------
    UserTypeError
        If it is neither.
    UserError
        If the name is one of convae's own, or a derivative is wrong.
    """
    if isinstance(new, Activation):
        _check_derivatives(new)
        known: dict[str, Any] = ACTIVATIONS
    elif isinstance(new, Loss):
        known = LOSSES
    else:
        raise UserTypeError(f"new: {new!r} is neither an Activation nor a Loss")
    if new.name in OURS and known.get(new.name) is not new:
        raise UserError(f"name: {new.name!r} is taken; choose another one")
    known[new.name] = new


def _check_derivatives(f: Activation) -> None:
    """Compare f' with differences of f, and f'' with differences of f'."""

    def value(Z: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        H = Z.copy()
        f.function(np, H)
        return H

    def slope(Z: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        ones = np.ones_like(Z)
        return ones if f.derivative is None else ones * f.derivative(np, value(Z))

    def bend(Z: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        zeros = np.zeros_like(Z)
        return zeros if f.curvature is None else zeros + f.curvature(np, value(Z))

    _compare("derivative", slope(POINTS), _difference(value))
    _compare("curvature", bend(POINTS), _difference(slope))
    if f.slope is not None:  # the compiled passes compute with these
        _compare("slope", np.where(POINTS > 0, 1, f.slope) * POINTS, value(POINTS))
    if f.quadratic is not None:
        p, q, r, below = f.quadratic
        H = value(POINTS)
        _compare("quadratic", (p + q * H + r * H * H) * np.where(H > 0, 1, below), slope(POINTS))


def _difference(
    function: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]],
) -> np.ndarray[Any, Any]:
    """Return the central differences of a function at `POINTS`."""
    difference: np.ndarray[Any, Any] = (function(POINTS + STEP) - function(POINTS - STEP)) / 2
    return difference / STEP


def _compare(name: str, stated: np.ndarray[Any, Any], found: np.ndarray[Any, Any]) -> None:
    """Refuse what an activation states of itself where it is not what its function does."""
    error = np.abs(stated - found)
    if not (error < TOLERANCE).all():
        worst = int(np.argmax(np.nan_to_num(error, nan=np.inf)))
        raise UserError(
            f"{name}: at Z = {POINTS[worst]:.3f} it gives {stated[worst]:.4g}, where the function "
            f"has {found[worst]:.4g}; derivatives are computed from H = f(Z)"
        )
