"""A training step as a program: laid out once for each size of batch, and run many times."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from convae.engine import Array
from convae.engine.program import Executable, Memory, Problem, Program, Way
from convae.engine.program.arithmetic import channels_second
from convae.models.autoencoder import Autoencoder
from convae.models.gradient_program import GradientProgram, given_arrays
from convae.models.penalties import Penalty
from convae.training.averaging import MovingAverage
from convae.training.optimizers import Optimizer

Choose: TypeAlias = Callable[[Program], Callable[[Problem], Way]]
Runner: TypeAlias = Callable[[Executable], Callable[[], None]]

UPDATE = ("energy", "update")
"""The operations behind the gradients."""


class PlannedStep:
    """Loss, gradients, clipping, update and moving average as one program.

    Parameters
    ----------
    model, optimizer, clip_norm, penalty, average
        As in `convae.TrainingStep`.
    choose : callable
        Returns the ways of computing a program's problems.
    runner : callable
        Returns what runs an executable; by default, the executable itself does.
    """

    def __init__(
        self,
        model: Autoencoder,
        optimizer: Optimizer,
        clip_norm: float | None,
        penalty: Penalty,
        average: MovingAverage | None,
        choose: Choose,
        runner: Runner = lambda executable: executable,
    ) -> None:
        self.model, self.optimizer, self.average = model, optimizer, average
        self.clip_norm, self.penalty = clip_norm, penalty
        self._choose, self._runner = choose, runner
        self._memory = Memory(model.xp)
        self._numbers = model.xp.zeros(optimizer.count + 1, "float64")
        self._plans: dict[tuple[int, bool], Plan] = {}

    def __call__(self, x: Array, target: Array) -> Array:
        """Do one step.

        Parameters
        ----------
        x, target : (N, C, *size) ndarray
            Checked images; the target may be x itself.

        Returns
        -------
        0-d ndarray
            The loss before the update, penalties included, on the device.
        """
        plan = self.plan(x, target)
        plan.load(x, target)
        self.optimizer.steps += 1
        self._numbers[...] = self.model.xp.asarray(self._read_numbers())
        plan.run()
        return plan.executable.arrays["J"].copy()

    def gradients(self, x: Array, target: Array) -> Array:
        """Compute only loss and gradients, and leave the latter in the model's `flat_gradients`.

        Parameters
        ----------
        x, target : (N, C, *size) ndarray
            Checked images; the target may be x itself.

        Returns
        -------
        0-d ndarray
            The loss, penalties included, on the device.
        """
        plan = self.plan(x, target)
        plan.load(x, target)
        for problem, _, run in plan.executable.calls:
            if problem.operation not in UPDATE:
                run()
        return plan.executable.arrays["J"].copy()

    def plan(self, x: Array, target: Array) -> Plan:
        """Return the plan for such a batch, made when it is first needed.

        Parameters
        ----------
        x, target : (N, C, *size) ndarray
            Checked images; the target may be x itself.

        Returns
        -------
        Plan
            What does a step on batches of this size.
        """
        self.optimizer.prepare(self.model.flat_parameters)
        key, state = (len(x), target is not x), self.optimizer.state
        plan = self._plans.get(key)
        if plan is None or any(plan.arrays[name] is not state[name] for name in state):
            plan = self._plans[key] = self._make(*key)
        return plan

    def _make(self, examples: int, has_target: bool) -> Plan:
        """Lay out the program for batches of a size, and bind it."""
        model, optimizer = self.model, self.optimizer
        program = GradientProgram(model, examples, self.penalty, has_target).program
        given = {**given_arrays(model), **optimizer.state, "numbers": self._numbers}
        if self.average is not None:
            given["average"] = self.average.parameters
        for name, array in given.items():
            if name not in program.slots:
                program.array(name, array.shape, array.dtype.name, given=True)
        program.array("energy", (), "float64")
        program.do("energy", gradients="gradients", write={"energy": "energy"})
        changed = ["parameters", *optimizer.state]
        program.do(
            "update",
            gradients="gradients",
            energy="energy",
            J="J",
            numbers="numbers",
            update={name: name for name in (*changed, *(["average"] if self.average else []))},
            settings={"method": optimizer.method, "clip": self.clip_norm},
        )
        executable = Executable(program, given, self._choose(program), self._memory)
        return Plan(executable, self._runner(executable))

    def _read_numbers(self) -> list[float]:
        """Return the optimizer's numbers for the step that it counts, and the average's rate."""
        steps = self.optimizer.steps
        rate = 0.0 if self.average is None else self.average.rate(steps)
        return [*self.optimizer.numbers(), rate]


class Plan:
    """The program for batches of one size, bound to memory.

    Parameters
    ----------
    executable : Executable
        The program.
    run : callable
        Runs it.

    Attributes
    ----------
    arrays : dict
        Its arrays by name.
    """

    def __init__(self, executable: Executable, run: Callable[[], None]) -> None:
        self.executable, self.run = executable, run
        self.arrays = executable.arrays

    def load(self, x: Array, target: Array) -> None:
        """Copy a batch to where the program reads it."""
        channels_second(self.arrays["x"])[...] = x
        if "target" in self.arrays:
            channels_second(self.arrays["target"])[...] = target
