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


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="a system without SIGHUP")
def test_under_nohup_a_closed_terminal_changes_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.received == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_acts_and_a_request_does_not_need_one(monkeypatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(signals, "_requested", 0)
    with StopSignals(seen.append) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
    assert seen == [signal.SIGTERM] == [stop.received]
    with StopSignals() as stop:
        assert stop.received == 0
        signals.request_stop(signal.SIGTERM)
        assert stop.received == signal.SIGTERM


def test_an_interrupt_that_is_lost_stops_the_run_that_begins(monkeypatch) -> None:
    """One a moment later is the same wish, and does not interrupt what the first one does."""
    monkeypatch.setattr(signals, "_last", -1e9)
    monkeypatch.setattr(signals, "_requested", 0)
    before = signal.signal(signal.SIGINT, signals.interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.is_stop_requested()
        with StopSignals() as stop:
            assert stop.received == signal.SIGINT
        monkeypatch.setattr(signals, "REPEATED", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_an_import_makes_of_an_interrupt_is_no_error(main, monkeypatch, capsys) -> None:
    def interrupted(given: list[str]) -> None:
        signals.request_stop(signal.SIGINT)
        raise ImportError("initialization failed")

    monkeypatch.setattr("convae.app.entry.check_composition", interrupted)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 130
    assert capsys.readouterr().err.startswith("stopped; ")
    assert not signals.is_stop_requested()
