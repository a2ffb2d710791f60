"""Ways are used on a card after their numbers were found right there.

Each way computes the very problems of a program, twice on each of two draws of random numbers, in
memory between guard words. It has to agree with the portable way in float64, to repeat its own
bits, and to leave inputs and guards as they were. `convae.engine.gpu.examination` does this in a
process of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from math import inf, isfinite, prod, sqrt
from typing import Any

import cupy
import numpy as np

from convae.engine.arrays import Array
from convae.engine.backend import ArrayBackend
from convae.engine.gpu import kernels
from convae.engine.gpu.backend import TF32_TOLERANCE
from convae.engine.gpu.launching import timed
from convae.engine.gpu.recording import record
from convae.engine.program import Portable, Problem, Way
from convae.engine.program.arithmetic import Run

TOLERANCE = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 1e-2, "float64": 1e-12}
"""Largest error, relative to the largest number of an array, by the type of a problem's batches."""

DRAWS = 2
"""Draws of random numbers on which a way is tried."""

GUARD = 64
"""Elements before and behind each array that have to stay as they were."""

CHUNK_BYTES = 256 << 20
"""Memory for what the reference unfolds at a time."""

ROTATION = 3
"""Sets of inputs in turn while a way is timed, so that no cache holds them."""

ROUNDS = 5
"""Times that each set is timed; the shortest counts."""

ROTATED_BYTES = 1 << 30
"""What all sets together may take; beyond it there is one."""


class CertificationError(Exception):
    """A way is wrong; the message says how."""


def certify(way: Way, problem: Problem, tolerance: float, xp: Any) -> float:
    """Try a way on random numbers.

    Parameters
    ----------
    way : Way
        What is tried.
    problem : Problem
        What it has to compute.
    tolerance : float
        The largest error, relative to the largest number of an array.
    xp : module
        ``cupy``.

    Returns
    -------
    float
        The largest error seen.

    Raises
    ------
    CertificationError
        If anything about it is wrong.
    """
    largest = 0.0
    for sample in samples(problem, xp):
        guarded = {role: Guarded(array, xp) for role, array in sample.given.items()}
        run = way.build(problem, {role: each.array for role, each in guarded.items()})
        first = {r: array.copy() for r, array in outputs(run, problem, sample, guarded, xp)}
        for role, again in outputs(run, problem, sample, guarded, xp):
            if not same_bits(first[role], again, xp):
                raise CertificationError(f"{role} differs when it is computed again")
        if way.records(problem):
            graph, kept = record([run])
            replay = partial(graph.launch, cupy.cuda.get_current_stream())
            for role, again in outputs(replay, problem, sample, guarded, xp):
                if not same_bits(first[role], again, xp):
                    raise CertificationError(f"{role} differs when it is recorded")
            del kept
        largest = max(largest, compare(first, sample.right, xp))
        if not largest <= tolerance:
            raise CertificationError(f"error {largest:.1e}, over {tolerance:.0e}")
    return largest


class Guarded:
    """An array on the device between guard words."""

    def __init__(self, values: Array, xp: Any) -> None:
        self._xp = xp
        self._memory = xp.empty(values.size + 2 * GUARD, values.dtype)
        self.array = self._memory[GUARD : GUARD + values.size].reshape(values.shape)

    def fill(self, values: Array | float) -> None:
        """Set the values, and the guards."""
        self._memory[...] = 1.5  # a number of every type
        self.array[...] = values

    def is_intact(self) -> bool:
        """Tell whether the guards are as they were."""
        guards = self._xp.concatenate((self._memory[:GUARD], self._memory[-GUARD:]))
        return bool((guards == 1.5).all())


def outputs(
    run: Run, problem: Problem, sample: Sample, guarded: Mapping[str, Guarded], xp: Any
) -> Iterator[tuple[str, Array]]:
    """Compute once, with poison where results go; yields the results."""
    for role, each in guarded.items():
        each.fill(float("nan") if role in problem.written else sample.given[role])
    run()
    xp.cuda.Device().synchronize()
    for role, each in guarded.items():
        if not each.is_intact():
            raise CertificationError(f"it writes beyond {role}")
        if role in (*problem.written, *problem.updated):
            yield role, each.array
        elif not same_bits(each.array, sample.given[role], xp):
            raise CertificationError(f"it changes {role}, which it should only read")


def same_bits(a: Array, b: Array, xp: Any) -> bool:
    """Tell whether two arrays are equal to the bit, NaNs among them."""
    bytes_a, bytes_b = (xp.ascontiguousarray(x).reshape(-1).view("uint8") for x in (a, b))
    return bool((bytes_a == bytes_b).all())


@dataclass(frozen=True)
class Sample:
    """Random numbers for a problem's arrays, and its results in float64."""

    given: Mapping[str, Array]
    right: Mapping[str, Array]


@lru_cache(maxsize=1)
def samples(problem: Problem, xp: Any) -> list[Sample]:
    """Draw the numbers on which the ways of a problem are tried, one way after the other."""
    found = []
    for seed in range(DRAWS):
        rng = np.random.default_rng([seed, 5])
        given = drawn(rng, problem, xp)
        found.append(Sample(given, reference(problem, given, xp)))
    return found


POSITIVE = ("second_moment", "energy", "numbers", "target", "mean")
"""Roles whose numbers are not negative."""


PERIOD = 100_003
"""Numbers, a prime, after which what is drawn repeats itself."""


def drawn(rng: np.random.Generator, problem: Problem, xp: Any) -> dict[str, Array]:
    """Draw a problem's arrays, K so that its sums are of about size 1."""
    scales: dict[str, float] = {}
    if problem.shape("K") is not None:
        geometry = problem.geometry
        channels, filters = kernels.channels_and_filters(problem)
        terms = prod(geometry.kernel) / geometry.groups
        terms *= channels if problem.operation == "c" else filters / prod(geometry.stride)
        scales["K"] = 1 / sqrt(terms)
    return {r: draw(rng, r, s, d, xp, scales.get(r, 1)) for r, s, d in problem.arrays}


def draw(
    rng: np.random.Generator,
    role: str,
    shape: tuple[int, ...],
    dtype: str,
    xp: Any,
    scale: float = 1.0,
) -> Array:
    """Draw numbers of about size `scale`."""
    size = prod(shape)
    few = rng.standard_normal(min(size, PERIOD), dtype=np.float64)
    if role in POSITIVE:
        few = np.abs(few) % 1
    few *= scale
    values = xp.asarray(few.astype("float64" if dtype == "float64" else "float32"))
    if size > PERIOD:
        values = values[xp.arange(size) % PERIOD]
    return values.reshape(shape).astype(dtype)


def reference(problem: Problem, given: Mapping[str, Array], xp: Any) -> dict[str, Array]:
    """Compute the results the portable way in float64, examples in chunks if they are many."""
    arrays = {role: values.astype("float64") for role, values in given.items()}
    for role in problem.written:
        arrays[role][...] = 0
    way = Portable(_Float64(xp))
    sums = {"g": "dK", "error": "J"}.get(problem.operation)
    for part in chunks(problem):
        own = {role: a[part] if role in BATCHES else a for role, a in arrays.items()}
        before = arrays[sums].copy() if sums else None
        way.build(problem, own)()
        if sums:
            arrays[sums] += before
    return {role: arrays[role] for role in (*problem.written, *problem.updated)}


BATCHES = ("V", "G", "Z", "H", "E", "extra", "target")
"""Roles of arrays whose first axis is the examples', in the products."""


def chunks(problem: Problem) -> list[slice]:
    """Divide the examples of a product so that what is unfolded fits into some memory."""
    if problem.operation not in ("c", "h", "g", "error"):
        return [slice(None)]
    examples, *visible = problem.shape("E" if problem.operation == "error" else "V") or (1,)
    geometry = problem.geometry
    each = 8 * visible[-1] * prod(geometry.kernel) * prod(geometry.extended)
    size = max(1, int(CHUNK_BYTES // max(1, each)))
    return [slice(start, min(examples, start + size)) for start in range(0, examples, size)]


class _Float64(ArrayBackend):
    """Portable c, h and g in float64, on NumPy or CuPy."""

    def __init__(self, xp: Any) -> None:
        self.xp = xp


def compare(results: Mapping[str, Array], right: Mapping[str, Array], xp: Any) -> float:
    """Return the largest error, relative to the largest number of its array; infinity for NaN."""
    worst = 0.0
    for role, values in results.items():
        scale = float(xp.abs(right[role]).max()) or 1.0
        error = float(xp.abs(values.astype("float64") - right[role]).max()) / scale
        worst = max(worst, error if isfinite(error) else inf)
    return worst


def tolerance(problem: Problem, is_rounded: bool) -> float:
    """Return the largest error of a problem that rounding can explain.

    `is_rounded` says whether factors of float32 products are rounded to TF32.
    """
    dtypes = {dtype for _, _, dtype in problem.arrays} - {"float64"}
    worst = max((TOLERANCE[dtype] for dtype in dtypes), default=TOLERANCE["float64"])
    return max(worst, TF32_TOLERANCE) if is_rounded else worst


def seconds(way: Way, problem: Problem, xp: Any) -> float:
    """Time a call of a way, on random inputs in turn."""
    runs = [way.build(problem, arrays) for arrays in rotated(problem, xp)]
    for run in runs:
        run()
    if way.records(problem):  # as a step runs it
        graph, kept = record(runs)
        calls: list[Run] = [partial(graph.launch, cupy.cuda.get_current_stream())]
    else:
        calls, kept = runs, []
    times = [timed(calls) for _ in range(ROUNDS)]
    del kept
    return min(times) / len(runs)


@lru_cache(maxsize=1)
def rotated(problem: Problem, xp: Any) -> list[dict[str, Array]]:
    """Draw the sets of inputs on which the ways of a problem are timed, one way after the other."""
    size = sum(prod(shape) * np.dtype(dtype).itemsize for _, shape, dtype in problem.arrays)
    found = []
    for seed in range(ROTATION if ROTATION * size < ROTATED_BYTES else 1):
        rng = np.random.default_rng([seed, 6])
        found.append(drawn(rng, problem, xp))
    return found


def identity(ways: Mapping[str, Way], problem: Problem, xp: Any) -> float:
    """Return the error of ``<c(K, V), G> = <V, h(K, G)> = <K, g(G, V)>``, relative to the norms.

    Parameters
    ----------
    ways : mapping
        The chosen ways of "c", "h" and "g".
    problem : Problem
        A c, whose sizes and types all three take.
    xp : module
        ``cupy``.
    """
    rng = np.random.default_rng(7)
    shapes = {role: (shape, dtype) for role, shape, dtype in problem.arrays if role in "KVZ"}
    given = {r: draw(rng, r, *shapes[r], xp) for r in "KV"}
    Z = xp.empty(*shapes["Z"])
    _bare("c", problem, ways, Z=Z, **given)
    # a G that points to Z: with random ones the forms would be sums that nearly vanish
    size = xp.sqrt(xp.square(Z.astype("float32")).mean())
    G = (Z + size * draw(rng, "G", Z.shape, "float32", xp)).astype(Z.dtype)
    V, dK = xp.empty_like(given["V"]), xp.empty(given["K"].shape, "float32")
    _bare("h", problem, ways, V=V, K=given["K"], G=G)
    _bare("g", problem, ways, dK=dK, V=given["V"], G=G)
    pairs = (Z, G), (V, given["V"]), (dK, given["K"])
    wide = [(a.astype("float64"), b.astype("float64")) for a, b in pairs]
    forms = [float((a * b).sum()) for a, b in wide]
    return (max(forms) - min(forms)) / float(
        xp.linalg.norm(wide[0][0]) * xp.linalg.norm(wide[0][1])
    )


def _bare(operation: str, problem: Problem, ways: Mapping[str, Way], **arrays: Any) -> None:
    """Compute an operation with nothing behind it; the first array is its result."""
    described = tuple((role, a.shape, a.dtype.name) for role, a in arrays.items())
    settings = (("geometry", problem.geometry),)
    bare = Problem(operation, described, (next(iter(arrays)),), (), settings)
    ways[operation].build(bare, arrays)()
