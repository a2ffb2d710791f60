"""Signals that stop a run between two steps."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from convae.training import signals
from convae.training.signals import StopSignals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_recorded_and_a_later_sigint_acts(number, monkeypatch) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopSignals() as stop:
        assert stop.received == 0
        os.kill(os.getpid(), number)
        assert stop.received == number
        monkeypatch.setattr(signals, "REPEATED", 1000.0)
        os.kill(os.getpid(), signal.SIGINT)  # a moment later: the same wish
        assert stop.received == number
        monkeypatch.setattr(signals, "REPEATED", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_other_threads_change_nothing() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def run() -> None:
        with StopSignals() as stop:
            seen.append((signal.getsignal(signal.SIGINT), stop.received))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(before, 0)]
