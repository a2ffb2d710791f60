"""Chunks of a batch, and the threads that share them.

NumPy, BLAS and compiled code release the GIL, so threads suffice. BLAS is limited to one thread
while several are working. How a batch is split, and therefore the result, depends on the problem
only, not on the number of threads.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from heapq import heapreplace
from itertools import accumulate
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController

from convae.engine.arrays import Array
from convae.engine.cpu.machine import THREADS, multiple
from convae.engine.cpu.rows import JOB_ENTRIES, Job
from convae.errors import check_range

Result = TypeVar("Result")
Task = TypeVar("Task")

CHUNK_NUMBERS, LARGEST_CHUNK = 400_000, 64
"""Numbers of a chunk that a core's cache keeps from one layer to the next; its most examples."""

INTERPRETED = 4
"""How much larger a chunk is, at which the interpreter is also at work."""

CHUNK_WORK, WORK_PER_PARAMETER = 1 << 25, 3000
"""Multiply-accumulates of a chunk, and for each parameter whose gradient it reads and writes, that
make a smaller one not worth while; few threads divide a smaller one even so."""

LEAST_DIVIDED = 1 << 26
"""Multiply-accumulates of a batch that is divided. A smaller one takes a millisecond or less, which
calls from Python for every chunk would double."""

FEWEST_CHUNKS = 4
"""Chunks into which a batch is divided even if they are smaller."""

SHARING = 1.08
"""What a chunk takes whose nodes threads share, of the time of chunks that threads have."""

WATCHING = 2_000_000
"""Looks for work, about a millisecond, before a thread sleeps."""

_local = threading.local()


def divide(
    examples: int, work: int, numbers: int, parameters: int = 0, is_compiled: bool = False
) -> list[slice]:
    """Split a batch into chunks for threads, the longer ones first.

    `work` is multiply-accumulates per example, `numbers` what it has in memory; with the gradients
    of so many parameters, which every chunk reads and writes, chunks are longer. Where all that a
    chunk takes is compiled, threads can share it, and the batch stays whole if they would not be
    busy equally long. A small one stays whole, too.
    """
    if work * examples < LEAST_DIVIDED:
        return [slice(0, examples)]
    of_parameters = WORK_PER_PARAMETER * parameters
    in_cache = CHUNK_NUMBERS * (1 if is_compiled else INTERPRETED)
    length = max(in_cache // max(numbers, 1), of_parameters // max(work, 1), 1)
    least = max(CHUNK_WORK, of_parameters)
    are_many = is_compiled and work * examples >= THREADS[-1] * least
    counts = THREADS if are_many else [t for t in THREADS if t <= FEWEST_CHUNKS]
    count = max(-(-examples // min(length, LARGEST_CHUNK)), counts[-1])
    count = max(min(multiple(count, counts[-1]), examples), 1)
    short, longer = divmod(examples, count)
    lengths = [short + 1] * longer + [short] * (count - longer)
    busy = sum(_busy(lengths, t) for t in counts) / len(counts)
    if is_compiled and busy > SHARING * examples:
        return [slice(0, examples)]
    return [slice(end - n, end) for n, end in zip(lengths, accumulate(lengths), strict=True)]


def _busy(lengths: Sequence[int], count: int) -> int:
    """How long so many threads, that take chunks in their order, are busy or wait for others."""
    ends = [0] * count
    for length in lengths:
        heapreplace(ends, ends[0] + length)
    return max(ends) * count


def cut(examples: int, length: int) -> list[slice]:
    """Split a batch into chunks of a given length; the last may be shorter."""
    return [slice(i, min(i + length, examples)) for i in range(0, examples, length)]


def in_pool() -> bool:
    """Tell whether this thread is busy with a task of several threads."""
    return getattr(_local, "busy", False)


def cores() -> int:
    """Count the CPU cores available to this process."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_threads: int | None = None


def set_num_threads(count: int) -> None:
    """Set the number of threads of the CPU backend; results do not depend on it.

    By default it is the number of cores that the process may use, or `OMP_NUM_THREADS` where that
    is set and lower.

    Parameters
    ----------
    count : int
        At least 1.

    Raises
    ------
    UserTypeError, UserError
        If it is not an integer of at least 1.
    """
    global _threads
    check_range("count", count, at_least=1, integer=True)
    _threads = int(count)
    _end_helpers()


def get_num_threads() -> int:
    """Count the threads of the CPU backend.

    Returns
    -------
    int
        What `set_num_threads` has set; by default the cores that the process may use, or
        `OMP_NUM_THREADS` where that is set and lower.
    """
    if _threads is not None:
        return _threads
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores(), int(wanted))) if wanted.isdigit() else cores()


class _Helpers:
    """Threads that work beside a caller, at jobs of compiled code or at what Python gives them.

    One that has nothing to do watches for work a while before it sleeps: to wake it takes as long
    as a small problem. They are kept off the caller's core, where Linux likes to wake them, and
    where they would stay for many milliseconds.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.job = new_job()
        self.has_job = threading.Lock()
        self._queues: list[SimpleQueue[Callable[[], None] | None]]
        self._queues = [SimpleQueue() for _ in range(count)]
        self._is_awake, self._wakings, self._numbers = [False] * count, 0, itertools.count(1)
        self._avoided = -1  # the core on which the last caller was
        self._threads = [
            threading.Thread(target=self._serve, args=(n,), name="convae", daemon=True)
            for n in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def post(self, work: Callable[[], None], together: int) -> None:
        """Offer work to so many of them, if there are so many."""
        self._keep_away()
        for queue in self._queues[:together]:
            queue.put(work)
        self._interrupt()

    def wake(self, together: int) -> None:
        """See that so many of them watch for a job soon, if there are so many."""
        self._keep_away()
        self._wakings += 1
        for n in range(min(together, self.count)):
            if not self._is_awake[n]:
                self._is_awake[n] = True
                self._queues[n].put(_nothing)

    def end(self) -> None:
        """Let them end when they have done what they are at."""
        for queue in self._queues:
            queue.put(None)
        self._interrupt()

    def _interrupt(self) -> None:
        """Have those who watch look into their queues."""
        self.job[Job.POSTED] = next(self._numbers)

    def _keep_away(self) -> None:
        """Keep them off this thread's core."""
        core = _core() if self.count else self._avoided
        if core == self._avoided:
            return
        self._avoided = core
        others = os.sched_getaffinity(0) - {core}
        for thread in self._threads if others else []:
            with suppress(OSError):  # it has ended, or the system allows it other cores
                os.sched_setaffinity(thread.native_id or -1, others)

    def _serve(self, n: int) -> None:
        """Do work until the end."""
        _local.busy = True
        while (work := self._next(n)) is not None:
            with suppress(MemoryError):  # the caller does what is left
                work()
            del work  # and the arrays that it knows, while this waits

    def _next(self, n: int) -> Callable[[], None] | None:
        """Do jobs until there is other work."""
        queue = self._queues[n]
        while True:
            posted, wakings = int(self.job[Job.POSTED]), self._wakings
            with suppress(Empty):
                return queue.get_nowait()
            self._is_awake[n] = True
            if _watch(self.job, n + 1, posted):
                continue
            self._is_awake[n] = False
            if wakings == self._wakings:  # else it has just been taken for awake
                return queue.get()


def _nothing() -> None:
    """Do nothing, but having been woken."""


def new_job() -> Array:
    """Return the entries of a job; see `rows.Job`."""
    return np.zeros(JOB_ENTRIES, np.int64)


def _watch(job: Array, helper: int, posted: int) -> bool:
    """Do jobs while they come, without the interpreter's lock; tells if other work is posted."""
    from convae.engine.cpu.backend import compiled  # which imports this

    if not job[Job.ITEMSIZE]:  # there has been none
        return _changes(job, Job.POSTED, posted)
    with suppress(MemoryError):
        return bool(compiled("calls").watch(job, helper, posted))
    return False


def _changes(counters: Array, index: int, seen: int) -> bool:
    """Watch a counter for a while, without the interpreter's lock; tells whether it has changed."""
    from convae.engine.cpu.backend import compiled, compiles  # which import this

    return compiles() and bool(compiled("waiting").changes(counters, index, seen, WATCHING))


def _core() -> int:
    """Return the core that this thread is on; -1 where the system does not tell."""
    read = _core_reader()
    return -1 if read is None else int(read())


@cache
def _core_reader() -> Callable[[], int] | None:
    if not hasattr(os, "sched_setaffinity"):  # Linux has both
        return None
    return getattr(ctypes.CDLL(None), "sched_getcpu", None)


_found: _Helpers | None = None
_found_lock = threading.Lock()


def _helpers() -> _Helpers:
    """Return the threads beside all callers, which are made once for each number of threads."""
    global _found
    with _found_lock:
        if _found is None:
            _found = _Helpers(get_num_threads() - 1)
        return _found


def _end_helpers() -> None:
    global _found
    with _found_lock:
        ended, _found = _found, None
    if ended is not None:
        ended.end()


class _SingleThreadedBlas:
    """A context in which BLAS has one thread; several threads may be in it at the same time.

    BLAS's limit belongs to the process, so the first thread in sets it and the last one out
    restores what it was before.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._limit: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._limit = _blas().limit(limits=1, user_api="blas")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._limit.restore_original_limits()


_single_threaded_blas = _SingleThreadedBlas()


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def _after_fork() -> None:
    """Forget the parent's threads, which a forked child does not have, and what they held."""
    global _found, _found_lock, _local, _single_threaded_blas
    _found, _found_lock = None, threading.Lock()
    _blas.cache_clear()
    _local = threading.local()
    _single_threaded_blas = _SingleThreadedBlas()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_after_fork)


class _Work:
    """Tasks that several threads take, one at a time, until none is left or one has failed."""

    def __init__(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> None:
        self.function, self.tasks = function, tasks
        self.results: list[Any] = [None] * len(tasks)
        self.failed: dict[int, BaseException] = {}
        self._next = itertools.count()
        self._changed = threading.Condition()
        self._helping, self._is_closed = np.zeros(1, np.int64), False

    def do(self) -> None:
        """Do tasks in this thread, and wait for those that others are at."""
        was_busy, _local.busy = in_pool(), True
        try:
            self._take()
        finally:
            _local.busy = was_busy
            with self._changed:
                self._is_closed = True
            while (helping := int(self._helping[0])) and _changes(self._helping, 0, helping):
                pass
            with self._changed:
                self._changed.wait_for(lambda: not self._helping[0])

    def help(self) -> None:
        """Do tasks in another thread, unless they are all done."""
        with self._changed:
            if self._is_closed:
                return
            self._helping += 1
        try:
            self._take()
        finally:
            with self._changed:
                self._helping -= 1
                self._changed.notify()

    def _take(self) -> None:
        while not self.failed and (index := next(self._next)) < len(self.tasks):
            try:
                self.results[index] = self.function(self.tasks[index])
            except BaseException as error:
                self.failed[index] = error


def map_tasks(function: Callable[[Task], Result], tasks: Sequence[Task]) -> list[Result]:
    """Call a function on each task, in this thread and beside it; results in order.

    In a thread that is busy with a task it does all of them. BLAS has one thread meanwhile, so that
    bits do not depend on the number of threads.
    """
    if in_pool():  # BLAS is limited already
        return [function(task) for task in tasks]
    with _single_threaded_blas:
        if len(tasks) == 1:
            return [function(tasks[0])]
        work = _Work(function, tasks)
        _helpers().post(work.help, len(tasks) - 1)
        work.do()
        if work.failed:
            raise work.failed[min(work.failed)]
        return work.results


def share(work: Callable[[Array], None], together: int) -> None:
    """Call a function on a job, at which helpers look if so many threads can work at it together.

    It has written and done the job when it returns. While another caller has the helpers, it does
    so alone.
    """
    helpers = _helpers() if together > 1 else None
    if helpers is None or not helpers.count or not helpers.has_job.acquire(blocking=False):
        work(new_job())
        return
    try:
        helpers.wake(together - 1)
        work(helpers.job)
    finally:
        helpers.has_job.release()
