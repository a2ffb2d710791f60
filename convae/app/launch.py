"""How a run begins, anew or where it was, and how it ends where several processes do it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from convae.app.arguments import MULTIRUN, divide
from convae.errors import UserError
from convae.keys import override
from convae.processes import Group, PeerError
from convae.training.state import has_state, is_used, used_folder

log = logging.getLogger("convae")

RUN = "run="
"""How the override begins that names a folder to begin a run in, or to go on with one."""

SILENT = ("hydra.output_subdir=null", "hydra/job_logging=silent")
"""Overrides of processes that leave files and messages to the first."""


def settle(arguments: Sequence[str]) -> list[str]:
    """Replace ``run=FOLDER`` by what begins a run there, or goes on with the one that is there.

    A run that goes on keeps what it was begun with; what is said now and was not then is passed on.
    """
    named = [word for word in arguments if word.startswith(RUN)]
    if not named:
        return list(arguments)
    flags, overrides = divide(arguments)
    others = [word for word in overrides if not word.startswith(RUN)]
    if len(named) > 1 or any(word.startswith(("resume=", "hydra.run.dir=")) for word in others):
        raise UserError("run: one folder is named once, and without resume or hydra.run.dir")
    if MULTIRUN & set(flags):
        raise UserError("run: is for a single run; a sweep's folder is hydra.sweep.dir")
    (parsed,) = OverridesParser.create().parse_overrides(named)
    folder = parsed.value()
    if not isinstance(folder, str) or not folder:
        raise UserError(f"run: {folder!r} is no folder; quote a name that reads as a number")
    if has_state(Path(folder)):
        begun = Path(folder) / ".hydra" / "overrides.yaml"
        known = _by_key(map(str, OmegaConf.load(begun))) if begun.is_file() else {}
        said = _by_key(others)
        new = [word for key, word in said.items() if known.get(key) != word]
        return [*flags, override("resume", folder), *new]
    if is_used(Path(folder)):
        raise UserError(used_folder(folder))
    return [*flags, override("hydra.run.dir", folder), *others]


def _by_key(words: Iterable[str]) -> dict[str, str]:
    """Return overrides by their keys; of several of one key the last counts."""
    return {word.partition("=")[0]: word for word in words}


def fail(message: str, group: Group) -> NoReturn:
    """End with a message on standard error; of several processes that fail the first shows it."""
    sys.exit(message if group.is_first_to_fail(message) else 1)


def fail_of_peer(error: PeerError, group: Group) -> NoReturn:
    """End since another process has ended, which has said why unless it was killed."""
    fail(
        f"error: another process has ended without a message ({error}); it may have been killed, "
        "as for want of memory",
        group,
    )
