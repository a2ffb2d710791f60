"""Processes that train one model together: who has which examples, and what they have in common.

Here it is one process alone. `convae.training.distributed` has those that torchrun starts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

Value = TypeVar("Value")


def part(whole: int, number: int, count: int) -> slice:
    """Return one of parts of equal sizes, or nearly so, that follow each other, from 0 on."""
    first, end = (place * whole // count for place in (number, number + 1))
    return slice(first, end)


class PeerError(Exception):
    """Another process has ended, or cannot be reached any more; it says why, not this one."""


@dataclass(frozen=True)
class Share:
    """The examples of a batch that a process has.

    Parameters
    ----------
    first, count : int
        They follow each other: the place of the first, and how many there are.
    whole : int
        Examples of the whole batch.
    """

    first: int
    count: int
    whole: int

    @property
    def weight(self) -> float:
        """What part of the batch it is."""
        return self.count / self.whole

    @property
    def rows(self) -> slice:
        """Where they are; a share of nothing is computed with the first, and weighs nothing."""
        return slice(self.first, self.first + self.count) if self.count else slice(0, 1)


class Group:
    """The processes that share each batch; this class is one that has all of it.

    Attributes
    ----------
    rank : int
        The number of this process, from 0 on.
    size : int
        How many there are.
    weight : float
        What part of the batch in work this process has; see `mean`.
    stopping : int
        The signal by which this process was asked to stop, or 0; after `combine`, that of any.
    """

    rank: int = 0
    size: int = 1
    weight: float = 1.0
    stopping: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes and reports for all."""
        return self.rank == 0

    def share(self, whole: int) -> Share:
        """Return this process's share of a batch; those of all have equal sizes, or nearly so.

        Parameters
        ----------
        whole : int
            Examples of the batch.

        Returns
        -------
        Share
            Which of them are this process's.
        """
        own = part(whole, self.rank, self.size)
        return Share(own.start, own.stop - own.start, whole)

    def combine(self, gradients: Any, loss: Any) -> Any:
        """Replace gradients (M,) by the mean over the batch, and return that of the loss."""
        return loss

    def mean(self, array: Any) -> Any:
        """Average an array (M,) of float, each process's by its `weight`."""
        return array

    def sum(self, values: Sequence[float]) -> list[float]:
        """Add numbers up."""
        return [float(value) for value in values]

    def gather(self, values: list[Value]) -> list[Value]:
        """Put the lists of processes that have a weight one behind the other."""
        return values

    def of_first(self, compute: Callable[[], Value]) -> Value:
        """Return, in all processes, what the first one computes."""
        return compute()

    def read(self, load: Callable[[], Value]) -> Value:
        """Return what `load` does, which one process of each machine calls."""
        return load()

    def is_first_to_fail(self, message: str) -> bool:
        """Tell whether no other process has failed before this one, whose error it is to show."""
        return True

    def agree(self, **values: str) -> None:
        """Check that values are the same in all processes; a `UserError` names which is not."""


ALONE = Group()
"""A process without others."""
