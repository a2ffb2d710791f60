"""Graceful interruption: signals are recorded, and acted upon between two steps.

SIGINT, SIGTERM, and where the system has them SIGHUP (the terminal is closed) and SIGUSR1 (a
cluster announces pre-emption).
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from math import inf
from types import FrameType, TracebackType
from typing import Any

SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
    if hasattr(signal, name)
]
"""The signals that stop a run after its current step."""

_requested = 0


def request_stop(number: int) -> None:
    """Stop every run of this process, from now on, as if it received a signal; 0 takes it back."""
    global _requested
    _requested = number


REPEATED = 1.0
"""Seconds within which a second SIGINT is not taken for impatience."""


_last = -inf


def interrupt(number: int, frame: FrameType | None) -> None:
    """Handle a signal before training begins: raise KeyboardInterrupt.

    Imports of compiled modules may turn that into another error, or lose it; so a run that begins
    all the same stops at once. One within `REPEATED` seconds is the same wish.
    """
    global _last
    before, _last = _last, time.monotonic()
    if _last - before > REPEATED:
        request_stop(number)
        raise KeyboardInterrupt


def is_stop_requested() -> bool:
    """Tell whether runs of this process are to stop."""
    return _requested != 0


class Interrupted(Exception):  # noqa: N818 (requested, so not an error)
    """A run was interrupted and has saved its state.

    Parameters
    ----------
    number : int
        The signal.
    message : str
        Where the run stopped.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


class StopSignals:
    """Within a ``with`` block, record the first of `SIGNALS`; a SIGINT after it acts at once.

    One within `REPEATED` seconds is the same wish: a shell and its job both pass Ctrl-C on.

    Outside the main thread, where Python allows no handlers, nothing is changed; nor are signals
    that are ignored, as SIGHUP under nohup.

    Parameters
    ----------
    act : callable, optional
        Called with a signal when it is received.
    """

    def __init__(self, act: Callable[[int], object] | None = None) -> None:
        self._act = act
        self._received = 0

    @property
    def received(self) -> int:
        """The signal received, or 0."""
        return self._received or _requested

    def __enter__(self) -> StopSignals:
        """Install the handlers."""
        self._previous: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) == signal.SIG_IGN:
                    continue
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Restore the earlier handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self._received:
            self._received, self._since = number, now
            if self._act is not None:
                self._act(number)
        elif number == signal.SIGINT and now - self._since > REPEATED:
            raise KeyboardInterrupt
