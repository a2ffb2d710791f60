"""A training step as a program: laid out once for each size of batch, and run many times."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeAlias

from convae.engine import Array
from convae.engine.program import Executable, Memory, Problem, Program, Way
from convae.engine.program.arithmetic import channels_second
from convae.models.autoencoder import Autoencoder
from convae.models.penalties import Penalty
from convae.models.programs import GradientProgram, ReconstructionProgram, given_arrays
from convae.training.averaging import MovingAverage
from convae.training.optimizers import Optimizer

Choose: TypeAlias = Callable[[Program], Callable[[Problem], Way]]
Runner: TypeAlias = Callable[[Executable], Callable[[], None]]

MOST_PLANS = 8
"""Plans that are kept: those for the batch sizes used last."""

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
        self.memory = Memory(model.xp)
        self._numbers = model.xp.zeros(optimizer.count + 1, "float64")
        self._plans: dict[Hashable, Plan] = {}

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
        optimizer = self.optimizer
        optimizer.prepare(self.model.flat_parameters)
        key, state = (len(x), target is not x, optimizer.method), optimizer.state
        plan = self._plans.pop(key, None)
        if plan is None or any(plan.arrays[name] is not state[name] for name in state):
            plan = self._make(len(x), target is not x)
        keep_latest(self._plans, key, plan)
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
        executable = Executable(program, given, self._choose(program), self.memory)
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


def keep_latest(plans: dict[Hashable, Plan], key: Hashable, plan: Plan) -> None:
    """Put a plan behind all others, and let go of the one that was not used for longest."""
    plans[key] = plan
    if len(plans) > MOST_PLANS:
        plans.pop(next(iter(plans)))


class PlannedEvaluation:
    """Reconstructions and their loss, as one program.

    Parameters
    ----------
    model : Autoencoder
        The model.
    choose, runner : callable
        As in `PlannedStep`.
    memory : Memory
        Where it lies; that of a `PlannedStep` will do, since neither leaves anything for the other.
    """

    def __init__(self, model: Autoencoder, choose: Choose, runner: Runner, memory: Memory) -> None:
        self.model = model
        self._choose, self._runner, self._memory = choose, runner, memory
        self._plans: dict[Hashable, Plan] = {}

    def __call__(self, x: Array, target: Array) -> tuple[Array, Array]:
        """Do what `convae.Autoencoder.evaluate` does, on checked images.

        Parameters
        ----------
        x, target : (N, C, *size) ndarray
            Images, and what their reconstructions are compared with.

        Returns
        -------
        loss : 0-d ndarray
            Mean over all elements of the batch, on the device.
        R : (N, C, *size) ndarray
            The reconstructions.
        """
        model, plan = self.model, self._plans.pop(len(x), None)
        if plan is None:
            program = ReconstructionProgram(model, len(x)).program
            executable = Executable(
                program, given_arrays(model), self._choose(program), self._memory
            )
            plan = Plan(executable, self._runner(executable))
        keep_latest(self._plans, len(x), plan)
        plan.load(x, target)
        plan.run()
        R = channels_second(plan.arrays["D0"]).astype(model.dtype)
        return model.loss_of(R, target)
