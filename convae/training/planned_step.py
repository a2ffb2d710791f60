"""A training step as a program: laid out once for each size of batch, and run many times."""

from __future__ import annotations

from convae.engine import Array
from convae.engine.backend import channels_second
from convae.engine.program import Memory, Program
from convae.models.autoencoder import Autoencoder
from convae.models.gradient_program import GradientProgram
from convae.models.penalties import Penalty
from convae.models.plans import Choose, Plan, Plans, Runner
from convae.models.programs import ReconstructionProgram
from convae.training.averaging import MovingAverage
from convae.training.optimizers import Optimizer

UPDATE = ("energy", "update")
"""The operations behind the gradients."""


class PlannedStep:
    """Loss, gradients, clipping, update and moving average as one program.

    Batches, x and target, are checked (N, C, *size) arrays; the target may be x itself.

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
        self.plans = Plans(choose, runner, Memory(model.xp))
        self._numbers = model.xp.zeros(optimizer.count + 1, "float64")

    def __call__(self, x: Array, target: Array) -> Array:
        """Do one step; returns the loss before the update, a 0-d array on the device."""
        plan = self.plan(x, target)
        plan.load(x, target)
        self.optimizer.steps += 1
        self._numbers[...] = self.model.xp.asarray(self._read_numbers())
        plan.run()
        return plan.arrays["J"].copy()

    def gradients(self, x: Array, target: Array) -> Array:
        """Leave the gradients in the model's `flat_gradients`, and return the loss; no more."""
        plan = self.plan(x, target)
        plan.load(x, target)
        for problem, _, run in plan.executable.calls:
            if problem.operation not in UPDATE:
                run()
        return plan.arrays["J"].copy()

    def plan(self, x: Array, target: Array) -> Plan:
        """Return the plan for such a batch, made when it is first needed."""
        optimizer, has_target = self.optimizer, target is not x
        optimizer.prepare(self.model.flat_parameters)
        # vectors that are put in the optimizer's place, as by resuming, are others than before
        vectors = tuple(map(id, optimizer.state.values()))
        key = len(x), has_target, optimizer.method, vectors
        return self.plans.get(key, lambda: self._program(len(x), has_target))

    def _program(self, examples: int, has_target: bool) -> tuple[Program, dict[str, Array]]:
        """Write the program for batches of a size, and name the arrays that it is given."""
        optimizer = self.optimizer
        gradients = GradientProgram(self.model, examples, self.penalty, has_target)
        program = gradients.program
        own = {**optimizer.state, "numbers": self._numbers}
        if self.average is not None:
            own["average"] = self.average.parameters
        for name, array in own.items():
            program.array(name, array.shape, array.dtype.name, given=True)
        program.array("energy", (), "float64")
        program.do("energy", gradients="gradients", write={"energy": "energy"})
        changed = ["parameters", *(name for name in own if name != "numbers")]
        program.do(
            "update",
            gradients="gradients",
            energy="energy",
            J="J",
            numbers="numbers",
            update={name: name for name in changed},
            settings={"method": optimizer.method, "clip": self.clip_norm},
        )
        return program, gradients.given | own

    def _read_numbers(self) -> list[float]:
        """Return the optimizer's numbers for the step that it counts, and the average's rate."""
        rate = 0.0 if self.average is None else self.average.rate(self.optimizer.steps)
        return [*self.optimizer.numbers(), rate]


class PlannedEvaluation:
    """Reconstructions and their loss as one program: what `convae.Autoencoder.evaluate` does.

    Parameters
    ----------
    model : Autoencoder
        The model.
    choose, runner : callable
        As in `PlannedStep`.
    memory : Memory
        Where it lies; that of a step's plans will do.
    """

    def __init__(self, model: Autoencoder, choose: Choose, runner: Runner, memory: Memory) -> None:
        self.model = model
        self._plans = Plans(choose, runner, memory)

    def __call__(self, x: Array, target: Array) -> tuple[Array, Array]:
        """Return loss and reconstructions, for checked (N, C, *size) images and targets."""
        plan = self._plans.get(len(x), lambda: self._program(len(x)))
        plan.load(x, target)
        plan.run()
        R = channels_second(plan.arrays["D0"]).astype(self.model.dtype)
        return self.model.loss_of(R, target)

    def _program(self, examples: int) -> tuple[Program, dict[str, Array]]:
        reconstruction = ReconstructionProgram(self.model, examples)
        return reconstruction.program, reconstruction.given
