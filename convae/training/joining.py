"""The processes of torchrun, for whoever trains: found where there are any."""

from __future__ import annotations

import os

from convae.processes import ALONE, Group


def join() -> Group:
    """Join the processes that torchrun has started, once; any number of calls return the same.

    Returns
    -------
    Group
        They: its ``share(whole)`` is this process's part of a batch of so many examples, and a
        `convae.TrainingStep` takes it as ``group``. Of a process that is alone it is the whole.

    Raises
    ------
    UserError
        If they cannot be found: what torchrun's environment says is wrong, or somebody is missing.
    """
    if os.environ.get("WORLD_SIZE", "1") in ("", "1"):
        return ALONE
    from convae.training.distributed import join_others  # which imports torch

    return join_others()
