"""Programs of a model bound to memory, one for each kind of batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from convae.engine import Array
from convae.engine.backend import channels_last, copy_in_order
from convae.engine.program import Executable, Memory, Problem, Program, Way

log = logging.getLogger("convae")

Choose: TypeAlias = Callable[[Program], Callable[[Problem], Way]]
Runner: TypeAlias = Callable[[Executable], Callable[[], None]]

MOST_PLANS = 8
"""Plans that are kept: those for the batch sizes used last."""


@dataclass
class Plans:
    """Programs bound to memory, one for each kind of batch; those used last are kept.

    Parameters
    ----------
    choose : callable
        Returns the ways of computing a program's problems.
    runner : callable
        Returns what runs an executable.
    memory : Memory
        Where they lie: plans run one after the other, and none leaves anything for another.
    """

    choose: Choose
    runner: Runner
    memory: Memory
    kept: dict[Hashable, Plan] = field(default_factory=dict)

    def get(self, key: Hashable, build: Callable[[], tuple[Program, Mapping[str, Array]]]) -> Plan:
        """Return the plan of a key; `build` returns its program and given arrays, if there is none.

        The one that was not used for longest is let go of.
        """
        plan = self.kept.pop(key, None)
        if plan is None:
            program, given = build()
            executable = Executable(program, given, self.choose(program), self.memory)
            plan = Plan(executable, self.runner(executable))
            for line in plan.describe():
                log.debug(line)
        self.kept[key] = plan
        if len(self.kept) > MOST_PLANS:
            self.kept.pop(next(iter(self.kept)))
        return plan


class Plan:
    """A program bound to memory, and what runs it."""

    def __init__(self, executable: Executable, run: Callable[[], None]) -> None:
        self.executable, self.run = executable, run
        self.arrays = executable.arrays

    def describe(self) -> list[str]:
        """Say how every node is computed."""
        lines = []
        for problem, way, run in self.executable.calls:
            how = run.describe() if hasattr(run, "describe") else ""
            lines.append(f"{problem.title}: {way.name}{', ' if how else ''}{how}")
        return lines

    def lie_in(self, name: str, batch: Array) -> bool:
        """Let one of the program's arrays lie where a batch (N, C, *size) does, until next time.

        Returns whether it does; otherwise it has its own memory.
        """
        own, array = self.arrays[name], channels_last(batch)
        is_alike = array.flags.c_contiguous and array.flags.aligned and array.dtype == own.dtype
        return self.move(name, array if is_alike else own) and is_alike

    def move(self, name: str, array: Array) -> bool:
        """Let one of the program's arrays, and what lies within it, lie elsewhere until next time.

        Returns whether it does: it may if the whole program is compiled.
        """
        move = getattr(self.run, "move", None)
        return move is not None and bool(move(name, array))

    def load(self, x: Array, target: Array) -> None:
        """Copy a batch to where the program reads it."""
        copy_in_order(channels_last(x), self.arrays["x"])
        if "target" in self.arrays:
            copy_in_order(channels_last(target), self.arrays["target"])
