"""What torchrun starts in tests: ``parallel_run.py MISHAP [override ...]``."""

from __future__ import annotations

import os
import signal
import sys

from convae.app import entry
from convae.training import tasks


def main(mishap: str, overrides: list[str]) -> None:
    """Train; something happens to the second process, and to that alone."""
    is_second = os.environ["RANK"] == "1"
    if is_second and mishap == "other seed":
        overrides = [*overrides, "seed=7"]
    if is_second and mishap == "other code":
        from convae.training import distributed

        distributed._code = lambda: "0.0.1 (another)"
    if is_second and mishap == "dies at the start":
        sys.exit("the second process is no more")
    if is_second and mishap in ("error", "bug", "killed", "asked to stop"):
        batch = tasks.Reconstruction.batch

        def failing(self: tasks.Reconstruction, *how: object) -> object:
            if how[2] == 20:  # the step
                if mishap == "error":
                    raise OSError("a disk is gone")
                if mishap == "bug":
                    raise ZeroDivisionError("a bug of ours")
                number = signal.SIGKILL if mishap == "killed" else signal.SIGTERM
                os.kill(os.getpid(), number)
            return batch(self, *how)

        tasks.Reconstruction.batch = failing
    entry.main(overrides)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
