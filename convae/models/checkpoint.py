"""Named arrays and a description on disk: safetensors files, written atomically.

Reading one runs no code from the file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from convae.errors import UserError, VersionError
from convae.files import write_bytes

KEY = "convae"
"""Key in the file's metadata: JSON of the description, and of a digest of it and of all arrays.

A single key, because safetensors writes several in any order; equal models have equal files.
"""

EXTRA = "extra."
"""How the names of arrays begin that are no parameters of a model."""

FORMAT = 1
"""Number of the files' format; it grows when older versions cannot read what newer ones write."""


def write(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray[Any, Any]],
    description: Mapping[str, Any],
) -> None:
    """Write arrays and a description as a safetensors file."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    digest = _digest(contiguous, description)
    metadata = {"format": FORMAT, "blake2b": digest, "description": description}
    write_bytes(path, save(contiguous, {KEY: json.dumps(metadata)}))


def _digest(arrays: Mapping[str, np.ndarray[Any, Any]], description: Mapping[str, Any]) -> str:
    digest = hashlib.blake2b(json.dumps(description).encode(), digest_size=16)
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def read(
    path: str | os.PathLike[str],
) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
    """Read what `write` wrote."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"path: there is no file {os.fspath(path)!r}")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        ours = json.loads(metadata[KEY])
        if ours.get("format", FORMAT) > FORMAT:
            raise VersionError(
                f"path: {os.fspath(path)!r} was written by a newer version of convae; update convae"
            )
        description: dict[str, Any] = ours["description"]
        intact = ours["blake2b"] == _digest(arrays, description)
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"path: {os.fspath(path)!r} is damaged or no safetensors file ({error})"
        ) from None
    except (AttributeError, KeyError, TypeError):
        raise UserError(
            f"path: {os.fspath(path)!r} is a safetensors file, but convae did not write it"
        ) from None
    if not isinstance(description, dict):
        raise UserError(f"path: {os.fspath(path)!r} is damaged: its description is not a mapping")
    if not intact:
        raise UserError(f"path: {os.fspath(path)!r} is damaged (its digest does not match)")
    return arrays, description
