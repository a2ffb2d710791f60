"""Load saved models, by file or by the folder of the run that trained them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convae.engine import ArrayBackend, Backend
from convae.errors import UserError
from convae.models import checkpoint
from convae.models.kinds import described
from convae.models.layers import parameter_shapes, stack
from convae.models.model import Model

BEST = "best.safetensors"
"""Name of the best model's file in a run's folder."""

LAST = "last.safetensors"
"""Name of the last epoch's model in a run's folder."""


def load(
    path: str | os.PathLike[str], device: str = "cpu", *, backend: Backend | None = None
) -> Model:
    """Read a model that `convae.Autoencoder.save`, or that of another kind, or a run wrote.

    Parameters
    ----------
    path : path
        The file, or a run's folder, whose best model is loaded.
    device : {"cpu", "gpu", "auto"}
        Where the model lives.
    backend : Backend, optional
        What computes; by default that of the device.

    Returns
    -------
    Model
        The model, of the class that was saved.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or no model in the folder.
    UserError
        If the file is damaged or holds no model.
    """
    file = Path(path)
    if file.is_dir():
        file = file / BEST
    arrays, description = checkpoint.read(file)
    if "progress" in description:
        raise UserError(f"path: {os.fspath(file)!r} is a run's state; load the run's folder")
    if "model" not in description:
        raise UserError(f"path: {os.fspath(file)!r} holds no model")
    damaged = f"path: {os.fspath(file)!r} is damaged"
    try:
        shapes = parameter_shapes_of(description["model"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{damaged}: {error}") from None
    extras = {name for name in arrays if name.startswith(checkpoint.EXTRA)}
    parameters = {name: array for name, array in arrays.items() if name not in extras}
    if {name: array.shape for name, array in parameters.items()} != shapes:
        raise UserError(f"{damaged}: its arrays do not match the model")
    if not isinstance(description.get("metadata", {}), dict):
        raise UserError(f"{damaged}: its metadata is not a mapping")
    try:
        model = described(description, device=device, backend=backend)
    except TypeError as error:
        raise UserError(f"{damaged}: {error}") from None
    for name, array in parameters.items():
        model.parameters[name][...] = model.xp.asarray(array)
    model.metadata = description.get("metadata", {})
    model.extras = {name.removeprefix(checkpoint.EXTRA): arrays[name] for name in extras}
    return model


def parameter_shapes_of(configuration: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Derive the shapes of a model's parameters from its configuration, allocating nothing.

    A configuration that describes no model raises `AttributeError`, `KeyError`, `TypeError` or
    `ValueError`.
    """
    input_shape, visible = configuration["input_shape"], configuration["output_activation"]
    return parameter_shapes(
        stack(configuration["layers"], tuple(input_shape), visible, ArrayBackend())
    )
