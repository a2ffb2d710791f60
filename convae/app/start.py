"""The commands' first lines: Ctrl-C while Python imports the rest ends them without a traceback."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command ``convae``."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from convae.app import cli

    signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main()


def train() -> None:
    """Run ``python train.py``."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from convae.app import entry

    signal.signal(signal.SIGINT, signal.default_int_handler)
    entry.main()
