"""Workers: processes in which a launcher does a sweep's jobs, and that stop when it does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from convae.errors import UserError, check_range
from convae.training.signals import SIGNALS, request_stop

STOP = ".stop"
"""A file in a sweep's folder that tells its workers to stop."""

SECONDS = 0.2
"""Between two looks of a worker at its sweep."""


def count(config: DictConfig) -> int:
    """Count the workers of a sweep's launcher; 1 stands for the sweep's own process."""
    return effective(OmegaConf.select(config, "hydra.launcher.n_jobs", default=1))


def effective(n_jobs: int, name: str = "hydra.launcher.n_jobs") -> int:
    """Count jobs at a time as joblib does: -1 is one for each core."""
    check_range(name, n_jobs, integer=True)
    if n_jobs == 0:
        raise UserError(f"{name}: 0 is too small; expected 1 or more, or -1 for one on each core")
    import joblib

    return int(joblib.effective_n_jobs(n_jobs))


_leads = False


def lead() -> None:
    """Note that this process leads a sweep, so that it is no worker of another process."""
    global _leads
    _leads = True


def is_worker() -> bool:
    """Tell whether this process does jobs for another one that leads the sweep."""
    return multiprocessing.parent_process() is not None and not _leads


@contextmanager
def following(sweep: Path) -> Iterator[bool]:
    """Follow a sweep while a job of it is done; yields whether the job is still wanted.

    In a worker, the training in the ``with`` block stops after its step, with its state saved, once
    the sweep's process has died or asks for it. In any other process nothing happens.
    """
    parent = multiprocessing.parent_process()
    if parent is None or not is_worker():
        yield True
        return
    ended = threading.Event()

    def is_orphan() -> bool:
        return os.getppid() != parent.pid

    def is_over() -> bool:
        return is_orphan() or (sweep / STOP).exists()

    def watch() -> None:
        while not ended.wait(SECONDS):
            if is_over():
                request_stop(signal.SIGTERM)
                return

    request_stop(0)  # what an earlier sweep asked of this process is over
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield not is_over()
    finally:
        ended.set()
        thread.join()
        if is_orphan():  # jobs may be waiting in this process
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(128 + signal.SIGTERM)


@contextmanager
def hidden_signals() -> Iterator[None]:
    """Hide `SIGNALS` from processes started in a ``with`` block, which inherit what is blocked.

    Ctrl-C reaches all processes of a terminal, and one worker that dies of it takes the others with
    it. In this process a thread that blocks nothing receives the signals, so that handlers act.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    ended = threading.Event()

    def receive() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        ended.wait()

    resource_tracker.ensure_running()  # starting it later would unblock them again
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    thread = threading.Thread(target=receive, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)
