"""Stopping when asked to: SIGINT and SIGTERM are noted, and acted on between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupted(Exception):  # noqa: N818 (it was asked for; nothing went wrong)
    """A run was asked to stop, and its state is saved.

    Parameters
    ----------
    number : int
        The signal that asked.
    message : str
        Where the run stopped, and how it goes on.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


class StopSignals:
    """Within a ``with`` block, note the first SIGINT or SIGTERM; a second SIGINT acts at once.

    Outside the main thread, where Python allows no handlers, nothing is changed.

    Attributes
    ----------
    received : int
        The signal that came, or 0.
    """

    received: int = 0

    def __enter__(self) -> StopSignals:
        """Install the handlers."""
        self._previous: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put the earlier handlers back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        signal.signal(signal.SIGINT, signal.default_int_handler)
