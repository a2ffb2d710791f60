"""Results of a function in the order of its arguments, computed ahead by threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from convae.engine import get_num_threads

Given = TypeVar("Given")
Result = TypeVar("Result")

AHEAD = 8
"""Results, at most, that wait to be taken, for each thread."""


def in_threads(function: Callable[[Given], Result], values: Iterable[Given]) -> Iterator[Result]:
    """Compute results with all cores, in order; memory is for a few of them."""
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(get_num_threads()) as pool:
        for value in values:
            pending.append(pool.submit(function, value))
            if len(pending) > AHEAD * get_num_threads():
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
