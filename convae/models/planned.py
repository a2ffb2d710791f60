"""A model's programs on the CPU: chunks of a batch, each computed by a thread on memory of its own.

A batch of few examples is one chunk, whose nodes the threads share. How a batch is divided depends
on the problem alone, and what chunks give is added in order, so results do not depend on the number
of threads, to the bit.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from convae.engine import Array
from convae.engine.backend import channels_last, channels_second, copy_in_order
from convae.engine.program import Memory, Portable, Program
from convae.errors import counted
from convae.models.backpropagation import numbers_of, training_chunks, training_work
from convae.models.gradient_program import GradientProgram
from convae.models.parameters import add_sums, parts_of_sums
from convae.models.penalties import NONE, Penalty
from convae.models.plans import Plan, Plans
from convae.models.programs import ReconstructionProgram

if TYPE_CHECKING:
    from convae.models.autoencoder import Autoencoder
    from convae.models.coder import Coder


class _OfThread(threading.local):
    """What a thread keeps for a model."""

    plans: Plans | None = None
    gradients: Array | None = None


class Planned:
    """Gradients, codes and reconstructions of a model by programs.

    Parameters
    ----------
    model : Coder
        The model; its backend runs programs.
    """

    def __init__(self, model: Coder) -> None:
        self._model: Coder = weakref.proxy(model)  # which is freed with all of this
        self._own = _OfThread()
        self._sums: list[Array] = []
        self._compiled: dict[Penalty, bool] = {}

    def gradients(self, x: Array, target: Array, penalty: Penalty) -> Array:
        """Leave the gradients in the model's `flat_gradients`; returns the loss.

        The kernels' decay is left to the caller. x, target (N, C, *size)
        """
        model, N = self._model, len(x)
        penalty = replace(penalty, weight_decay=0.0)
        chunks = self._chunks(N, penalty)
        parts = parts_of_sums(len(chunks), model.flat_gradients.nbytes)
        while len(self._sums) < len(parts) - 1:
            self._sums.append(_zeros(model))
        sums = [model.flat_gradients, *self._sums][: len(parts)]

        def compute(part: slice) -> Array:
            """Do some chunks one after the other, and add to one of the sums."""
            J, total = 0.0, sums[parts.index(part)]
            for chunk in chunks[part]:
                plan = self._gradient_plan(chunk, target is not x, penalty, N)
                plan.load(x[chunk], target[chunk])
                own, is_first = plan.arrays["gradients"], chunk is chunks[part.start]
                is_there = plan.move("gradients", total if is_first else own)
                plan.run()
                J = J + plan.arrays["J"]
                if not is_first:
                    total += own
                elif not is_there:
                    total[...] = own
            return J

        J = sum(model.backend.map(compute, parts))
        add_sums(model.backend, sums)
        return J

    def describe(self, examples: int) -> list[str]:
        """Say, in lines, how the gradients of a batch of so many examples are computed."""
        chunks = self._chunks(examples, NONE)

        def build(chunk: slice) -> list[str]:
            return self._gradient_plan(chunk, False, NONE, examples).describe()

        nodes = self._model.backend.map(build, chunks)[0]
        lengths = sorted({chunk.stop - chunk.start for chunk in chunks})
        size = " or ".join([*map(str, lengths[:-1]), counted(lengths[-1], "image")])
        shared = "each by a thread" if len(chunks) > 1 else "shared by the threads"
        return [f"{counted(len(chunks), 'chunk')} of {size}, {shared}", *nodes]

    def _chunks(self, examples: int, penalty: Penalty) -> list[slice]:
        """Divide a batch."""
        if penalty.kl:  # which is of the mean over the whole batch
            return [slice(0, examples)]
        model = self._model
        size, is_compiled = model.flat_parameters.size, self._is_compiled(penalty)
        return training_chunks(model.backend, model.layers, examples, size, is_compiled)

    def _is_compiled(self, penalty: Penalty) -> bool:
        """Whether nothing of a step is left to array code."""
        if penalty not in self._compiled:
            model = cast("Autoencoder", self._model)
            program = GradientProgram(model, 1, penalty, False).program
            ways = map(model.backend.ways(), map(program.problem, program.nodes))
            self._compiled[penalty] = not any(isinstance(way, Portable) for way in ways)
        return self._compiled[penalty]

    def encode(self, x: Array, levels: Sequence[int]) -> list[Array]:
        """Return the codes of x (N, C, *size) at some levels, 1 that above the lowest layer."""
        wanted = {f"H{k}": self._model.layers[k - 1].output_shape for k in levels}
        return self._infer(x, "x", wanted, up=True, down=False)

    def decode(self, H: Array) -> Array:
        """Return the reconstructions of codes H (N, O, *output)."""
        top = f"H{len(self._model.layers)}"
        return self._infer(H, top, {"D0": self._model.input_shape}, up=False, down=True)[0]

    def reconstruct(self, x: Array) -> Array:
        """Return reconstructions, or what goes into the output activation if the loss is of that.

        x (N, C, *size)
        """
        return self._infer(x, "x", {"D0": self._model.input_shape}, up=True, down=True)[0]

    def _infer(
        self, given: Array, name: str, wanted: dict[str, tuple[int, ...]], up: bool, down: bool
    ) -> list[Array]:
        """Run chunks of a reconstruction's program, and collect some of its arrays."""
        model, N = self._model, len(given)
        results = [model.backend.empty_batch((N, *shape), model.dtype) for shape in wanted.values()]

        def compute(chunk: slice) -> None:
            def build() -> tuple[Program, Mapping[str, Array]]:
                program = ReconstructionProgram(model, chunk.stop - chunk.start, up, down)
                return program.program, program.given

            # one for each set of results: in it they lie where the caller's do, which are other
            # arrays at the next call, and must not be written to by a call that wants fewer
            key = (name, *wanted, chunk.stop - chunk.start)
            plan = self._plans().get(key, build)
            if not plan.lie_in(name, given[chunk]):
                copy_in_order(channels_last(given[chunk]), plan.arrays[name])
            places = {array: result[chunk] for array, result in zip(wanted, results, strict=True)}
            inside = [array for array, place in places.items() if not plan.lie_in(array, place)]
            plan.run()
            for array in inside:
                places[array][...] = channels_second(plan.arrays[array])

        work = training_work(model.layers) // 5 * (up + down)
        numbers, size = numbers_of(model.layers), model.flat_parameters.size
        chunks = model.backend.divide(N, work, numbers, size, is_compiled=True)
        model.backend.map(compute, chunks)
        return results

    def _gradient_plan(self, chunk: slice, has_target: bool, penalty: Penalty, whole: int) -> Plan:
        """Return this thread's plan for the gradients of a chunk."""
        n = chunk.stop - chunk.start

        def build() -> tuple[Program, Mapping[str, Array]]:
            gradients = self._gradients()
            model = cast("Autoencoder", self._model)  # no other has such a program
            program = GradientProgram(model, n, penalty, has_target, whole, gradients)
            return program.program, program.given

        return self._plans().get((n, has_target, penalty, whole), build)

    def _plans(self) -> Plans:
        """Return this thread's plans."""
        if self._own.plans is None:
            backend = self._model.backend
            memory = Memory(self._model.xp)
            self._own.plans = Plans(lambda program: backend.ways(), backend.runner, memory)
        return self._own.plans

    def _gradients(self) -> Array:
        """Return this thread's buffer of gradients."""
        if self._own.gradients is None:
            self._own.gradients = _zeros(self._model)
        return self._own.gradients


def _zeros(model: Coder) -> Array:
    """Return as many zeros as gradients, which take no memory until something is written."""
    zeros: Array = model.xp.zeros(model.flat_gradients.shape, model.flat_gradients.dtype)
    return zeros
