"""Models that were saved: by name of file, or by the folder of the run that trained them."""

from __future__ import annotations

import os
from pathlib import Path

from convae import checkpoint
from convae.autoencoder import Autoencoder

BEST = "best.safetensors"
"""Name of the best model's file in a run's folder."""

LAST = "last.safetensors"
"""Name of the last epoch's model in a run's folder."""


def load(path: str | os.PathLike[str], device: str = "cpu") -> Autoencoder:
    """Read a model that `Autoencoder.save` or a training run wrote.

    Parameters
    ----------
    path : path
        The file, or a run's folder, of which the best model is taken.
    device : {"cpu", "gpu", "auto"}
        Where the model shall live.

    Returns
    -------
    Autoencoder
        The model.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or no model in the folder.
    ValueError
        If the file is damaged or holds no model.
    """
    file = Path(path)
    if file.is_dir():
        file = file / BEST
    arrays, description = checkpoint.read(file)
    if "progress" in description:
        raise ValueError(f"path: {os.fspath(file)!r} is a run's state; give the run's folder")
    if "model" not in description:
        raise ValueError(f"path: {os.fspath(file)!r} holds no model")
    model = Autoencoder(**description["model"], device=device)
    expected = {name: array.shape for name, array in model.parameters.items()}
    if {name: array.shape for name, array in arrays.items()} != expected:
        raise ValueError(f"path: {os.fspath(file)!r} is damaged: arrays do not fit the model")
    for name, array in arrays.items():
        model.parameters[name][...] = model.xp.asarray(array)
    return model
