"""Which way computes a problem on this card: the fastest that was found right."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from convae.engine.backend import Backend
from convae.engine.gpu import kernels
from convae.engine.gpu.examination import PASSING, Trial, examine
from convae.engine.gpu.verdicts import Verdict
from convae.engine.gpu.ways import candidates, rounds, ways
from convae.engine.program import Portable, Problem, Program, Way


class Choice:
    """Chooses the fastest certified way for every problem of a program.

    Parameters
    ----------
    backend : CupyBackend
        Computes what no way is certified for, and says whether factors may be rounded to TF32.
    """

    def __init__(self, backend: Backend) -> None:
        self.portable = Portable(backend)
        self.tf32 = bool(getattr(backend, "tf32", False))
        self._verdicts: dict[Trial, Verdict] = {}

    def __call__(self, program: Program) -> Callable[[Problem], Way]:
        """Certify what has not been tried on this card, and choose.

        Parameters
        ----------
        program : Program
            What is to be computed.

        Returns
        -------
        callable
            Returns the way of a problem.
        """
        own = {way.name: way for way in ways()}
        trials = [
            Trial(problem, way.name, self.tf32 and rounds(way, problem))
            for problem in program.problems()
            for way in candidates(problem, list(own.values()), self.tf32)
        ]
        verdicts = examine(trials)
        self._verdicts |= verdicts
        chosen: dict[Problem, Way] = {}
        best: dict[Problem, float] = {}
        for trial, verdict in verdicts.items():
            if verdict.refused or verdict.seconds is None:
                continue
            if verdict.seconds < best.get(trial.problem, float("inf")):
                best[trial.problem] = verdict.seconds
                chosen[trial.problem] = own[trial.way]
        for parts, verdict in self._identities(chosen).items():
            if verdict.refused and verdict.refused not in PASSING:
                for problem in parts:
                    chosen.pop(problem, None)
        return lambda problem: chosen.get(problem, self.portable)

    def _identities(self, chosen: Mapping[Problem, Way]) -> dict[tuple[Problem, ...], Verdict]:
        """Try whether the ways chosen for a layer's c, h and g are each other's.

        Bare ones are tried, so that a way that fuses more is left out.
        """
        trials: dict[Trial, tuple[Problem, ...]] = {}
        for problem, way in chosen.items():
            if problem.operation != "c" or problem["activation"] is None:
                continue
            three = {"c": problem}
            for other in chosen:
                operation = kernels.product_of(other)
                kernel = other.shape("dK" if operation == "g" else "K")
                is_own = other["geometry"] == problem.geometry and kernel == problem.shape("K")
                if operation in ("h", "g") and is_own:
                    three[operation] = other
            own = [chosen[three[o]] for o in three]
            if len(three) == 3 and not any(getattr(w, "fused", False) for w in own):
                others = tuple(chosen[three[operation]].name for operation in ("h", "g"))
                is_rounded = any(rounds(way, problem) for way in own)
                trials[Trial(problem, way.name, is_rounded, others)] = tuple(three.values())
        verdicts = examine(list(trials))
        return {parts: verdicts[trial] for trial, parts in trials.items()}

    def verdicts(self, problem: Problem) -> dict[str, Verdict]:
        """Return what was found for a problem, by the names of the ways.

        Parameters
        ----------
        problem : Problem
            One of the programs that were chosen for.

        Returns
        -------
        dict
            A verdict for every way that suits it.
        """
        return {t.name: found for t, found in self._verdicts.items() if t.problem == problem}
