"""Files written atomically: whole under their name, or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


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
