"""The commands' first lines: Ctrl-C while Python imports the rest ends them without a traceback."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


def main() -> None:
    """Run the command ``convae``."""
    with _ending_at_once():
        from convae.app import cli
    cli.main()


def train() -> None:
    """Run ``python train.py``."""
    with _ending_at_once():
        from convae.app import entry
    entry.main()


@contextmanager
def _ending_at_once() -> Iterator[None]:
    """Let SIGINT end the process in a ``with`` block, unless it is ignored."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, before)
