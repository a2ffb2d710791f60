"""Files written atomically: whole under their name, or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from convae.errors import UserError

TEMPORARY = ".tmp"
"""Suffix of temporary files, whose names begin with a dot."""

_unfinished: set[str] = set()


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Write a file atomically: a temporary file beside it, synchronised, then renamed.

    Parameters
    ----------
    path : path
        The file; its folder is created if missing.

    Yields
    ------
    binary file
        To write to. If the block raises, it is discarded.

    Raises
    ------
    OSError
        If it cannot be written; an earlier file of that name is untouched.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(TEMPORARY, f".{target.name[:32]}.", target.parent)
    _unfinished.add(temporary)
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
        if isinstance(error, OSError) and error.errno and error.filename in (None, temporary):
            # a full disk names no file, and nobody knows the temporary one
            raise OSError(error.errno, f"{error.strerror}, writing", os.fspath(target)) from None
        raise
    finally:
        _unfinished.discard(temporary)


def discard_unfinished() -> None:
    """Remove the temporary files that are being written, for a process that is about to end."""
    for temporary in tuple(_unfinished):
        Path(temporary).unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file atomically, in one call.

    Parameters
    ----------
    path : path
        The file; its folder is created if missing.
    content : bytes
        All of it.

    Raises
    ------
    OSError
        If it cannot be written; an earlier file of that name is untouched.
    """
    with atomic(path) as file:
        file.write(content)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a folder for one process, for a ``with`` block; temporary files left in it are removed.

    Parameters
    ----------
    directory : Path
        The folder; created if missing.

    Raises
    ------
    UserError
        If another process holds it. The operating system ends the lock of a process that dies.
    """
    from filelock import FileLock, Timeout

    directory.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(directory / ".lock", timeout=0):
            for leftover in directory.glob(f".*{TEMPORARY}"):
                leftover.unlink(missing_ok=True)
            yield
    except Timeout:
        raise UserError(
            f"{os.fspath(directory)!r} is in use by another run; wait for it to end, or choose "
            "another folder"
        ) from None


def printable(name: str) -> str:
    """Escape line ends in a file's name, and what is not UTF-8.

    Parameters
    ----------
    name : str
        As the system gives it.

    Returns
    -------
    str
        As it can be shown and written.
    """
    escaped = name.replace("\n", "\\n").replace("\r", "\\r")
    return escaped.encode("utf-8", "backslashreplace").decode()
