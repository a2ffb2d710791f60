"""The words of a command line: flags before overrides, and commands that messages suggest."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Sequence

from convae.keys import override

VALUED = (
    *("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn"),
    *("--config-dir", "-cd", "--experimental-rerun"),
)
"""Hydra's flags that the next word belongs to."""

INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
"""What may follow Hydra's flag ``--info``."""

OF_SWEEPS = ("hydra.sweep", "hydra/sweep", "hydra.launcher", "hydra/launcher", "hydra.mode")
"""How overrides begin that say nothing to a single run."""


MULTIRUN = frozenset(("-m", "--multirun"))
"""Hydra's flags that make a sweep of a command."""


def divide(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide a command line into Hydra's flags, with their values, and overrides."""
    flags: list[str] = []
    overrides: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return flags, overrides + rest
        if not word.startswith("-"):
            overrides.append(word)
            continue
        flags.append(word)
        is_info = word in ("-i", "--info") and rest[:1] and rest[0] in INFO
        is_valued = word in VALUED or (
            len(word) > 3 and any(flag.startswith(word) for flag in VALUED)
        )
        if rest and (is_info or is_valued):
            flags.append(rest.pop(0))
    return flags, overrides


def ordered(arguments: Sequence[str]) -> list[str]:
    """Put flags before overrides, since Hydra's parser accepts them on one side only."""
    flags, overrides = divide(arguments)
    return [*flags, *overrides]


def command(words: Iterable[str] = ()) -> str:
    """Name the command that was called, with other words, for messages that suggest a call."""
    is_ours = os.path.basename(sys.argv[0]).startswith("convae")
    program = ["convae", "train"] if is_ours else ["python", sys.argv[0]]
    return shlex.join([*program, *words])


def run_command(overrides: Iterable[str], folder: str | os.PathLike[str]) -> str:
    """Name the command that does a sweep's job on its own, in a folder."""
    flags, given = divide(sys.argv[1:])
    flags = [flag for flag in flags if flag not in MULTIRUN]
    hydras = [word for word in given if word.startswith("hydra") and not word.startswith(OF_SWEEPS)]
    return command([*flags, *hydras, *overrides, override("hydra.run.dir", folder)])


def resume_command(folder: str | os.PathLike[str]) -> str:
    """Name the command that resumes the run in a folder."""
    return command([override("resume", folder)])
