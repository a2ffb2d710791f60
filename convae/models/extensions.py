"""Activations and losses of one's own, known by name from then on."""

from __future__ import annotations

from typing import Any

import numpy as np

from convae.errors import UserError, UserTypeError
from convae.models.activations import ACTIVATIONS, Activation
from convae.models.losses import LOSSES, Loss

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
        If the name is taken by another one, or a derivative is wrong.
    """
    if isinstance(new, Activation):
        _check_derivatives(new)
        known: dict[str, Any] = ACTIVATIONS
    elif isinstance(new, Loss):
        known = LOSSES
    else:
        raise UserTypeError(f"new: {new!r} is neither an Activation nor a Loss")
    if known.get(new.name, new) is not new:
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

    for name, function, derivative in (("derivative", value, slope), ("curvature", slope, bend)):
        difference = (function(POINTS + STEP) - function(POINTS - STEP)) / (2 * STEP)
        error = np.abs(derivative(POINTS) - difference)
        if not (error < TOLERANCE).all():
            worst = int(np.argmax(np.nan_to_num(error, nan=np.inf)))
            raise UserError(
                f"{name}: at Z = {POINTS[worst]:.3f} it is {derivative(POINTS)[worst]:.4g}, but "
                f"differences give {difference[worst]:.4g}; it is computed from H = f(Z)"
            )
