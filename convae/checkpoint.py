"""Named arrays and a description on disk: safetensors files, written whole or not at all.

Reading one runs no code from the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

KEY = "convae"
"""Key in the file's metadata: JSON of the description, and of a digest of it and of all arrays.

It is one key because safetensors writes several in any order; equal models have equal files.
"""


@contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Write a file atomically: a temporary file beside it, synchronised, then renamed.

    Parameters
    ----------
    path : path
        Where the file goes; its folder is made if missing.

    Yields
    ------
    binary file
        To write to. If an error passes, it is thrown away.

    Raises
    ------
    OSError
        If it cannot be written; an earlier file of that name is then untouched.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's are private; a model is an ordinary file
        os.replace(temporary, target)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            # a full disk names no file
            raise OSError(error.errno, f"{error.strerror}, writing", os.fspath(target)) from None
        raise


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file atomically.

    Parameters
    ----------
    path : path
        Where the file goes; its folder is made if missing.
    content : bytes
        All of it.

    Raises
    ------
    OSError
        If it cannot be written; an earlier file of that name is then untouched.
    """
    with whole(path) as file:
        file.write(content)


def write(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray[Any, Any]],
    description: Mapping[str, Any],
) -> None:
    """Write arrays and a description as a safetensors file.

    Parameters
    ----------
    path : path
        Where the file goes.
    arrays : mapping
        NumPy arrays by name.
    description : mapping
        Plain values, kept as JSON in the file's metadata.

    Raises
    ------
    OSError
        If it cannot be written; an earlier file of that name is then untouched.
    """
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    metadata = {"blake2b": _digest(contiguous, description), "description": description}
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
    """Read what `write` wrote.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    arrays : dict
        NumPy arrays by name.
    description : dict
        The plain values.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, or was not written by convae.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"path: there is no file {os.fspath(path)!r}")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        ours = json.loads(metadata[KEY])
        description: dict[str, Any] = ours["description"]
        intact = ours["blake2b"] == _digest(arrays, description)
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"path: {os.fspath(path)!r} is damaged or no safetensors file ({error})"
        ) from None
    except (KeyError, TypeError):
        raise ValueError(
            f"path: {os.fspath(path)!r} is a safetensors file, but convae did not write it"
        ) from None
    if not intact:
        raise ValueError(f"path: {os.fspath(path)!r} is damaged (its digest does not fit)")
    return arrays, description
