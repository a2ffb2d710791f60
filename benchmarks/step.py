"""A training step against PyTorch's, on one machine in one run: python -m benchmarks.step.

With device=gpu, `benchmarks.step_gpu` runs instead.

Both train the same tied autoencoder with Adam from the same initial values. Their losses must agree
before anything is timed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import statistics
import sys
import time

import numpy as np
import torch
from tqdm import tqdm

import convae
from benchmarks import memory
from benchmarks.measure import interleaved, keep, ratio, table
from benchmarks.peers import training_steps
from benchmarks.workloads import WORKLOADS, build
from convae.models.backpropagation import training_work

ROUNDS = 41
"""Many short rounds, so that an external disturbance affects all contestants alike."""


JAX = importlib.util.find_spec("jax") and importlib.metadata.version("jax")


def gemm_peak(seconds: float = 1.0) -> float:
    """Measure the fastest large matrix product here, NumPy's or PyTorch's, in FLOP/s."""
    side = 2048
    a = np.random.default_rng(0).random((side, side), dtype="float32")
    t = torch.tensor(a)
    best = 0.0
    for product in (lambda: a @ a, lambda: t @ t):
        product()
        end = time.perf_counter() + seconds / 2
        while time.perf_counter() < end:
            start = time.perf_counter()
            product()
            best = max(best, 2 * side**3 / (time.perf_counter() - start))
    return best


def measure(name: str) -> tuple[convae.Autoencoder, dict[str, list[float]], int]:
    """Check that all losses agree over five steps, then time the steps alternately."""
    model, x = build(WORKLOADS[name])
    peers = training_steps(model, np.ascontiguousarray(x))
    ours = convae.TrainingStep(model, convae.Adam(1e-3))
    losses = [float(ours(x)) for _ in range(5)]
    usable = {}
    for mode, step in tqdm(peers.items(), desc="PyTorch's modes", leave=False, disable=None):
        try:
            theirs = [step() for _ in range(5)]
        except torch._dynamo.exc.BackendCompilerFailed as error:
            print(f"{mode} is left out: {str(error).splitlines()[0]}")
            continue
        difference = np.abs(np.subtract(losses, theirs)).max()
        assert difference < 1e-4 * losses[0], f"{name}, {mode}: losses differ by {difference}"
        usable[mode] = step
    times = interleaved({"convae": lambda: ours(x), **usable}, rounds=ROUNDS, seconds=0.08)
    return model, times, len(x)


def jax_time(name: str) -> str:
    """Time JAX's step against ours, separately, so that its threads do not disturb the others."""
    if not JAX:
        return "not installed"
    from benchmarks.jax_peer import training_step

    model, x = build(WORKLOADS[name])
    theirs, ours = training_step(model, x), convae.TrainingStep(model, convae.Adam(1e-3))
    difference = max(abs(theirs() - float(ours(x))) for _ in range(5))
    assert difference < 1e-4, f"{name}, JAX: losses differ by {difference}"
    times = interleaved({"convae": lambda: ours(x), "JAX": theirs}, rounds=9)
    median, least, most = ratio(times["JAX"], times["convae"])
    milliseconds = 1e3 * statistics.median(times["JAX"])
    return f"{milliseconds:.0f}: {median:.1f} ({least:.1f} to {most:.1f})"


def main() -> None:
    """Measure every workload."""
    peak = gemm_peak()
    rows, ratios = [], []
    for name in tqdm(WORKLOADS, desc="benchmark", unit=" workloads", disable=None):
        model, times, batch = measure(name)
        ours = times.pop("convae")
        mode = min(times, key=lambda m: statistics.median(times[m]))
        median, least, most = ratio(times[mode], ours)
        ratios.append(median)
        seconds = statistics.median(ours)
        megabytes = [memory.of(who, name) for who in ("convae", "eager")]
        rate = 2 * training_work(model.layers) * batch / seconds
        others = ", ".join(f"{m} {1e3 * statistics.median(t):.1f}" for m, t in times.items())
        rows.append(
            [
                name,
                f"{1e3 * seconds:.1f}",
                others,
                f"{median:.2f} ({least:.2f} to {most:.2f})",
                jax_time(name),
                f"{batch / seconds:,.0f}",
                f"{rate / 1e9:.0f}",
                f"{rate / peak:.0%}",
                " / ".join(f"{steps:.0f} ({total:.0f})" for total, steps in megabytes),
            ]
        )
    header = ["workload", "convae, ms", "PyTorch, ms", "PyTorch's best / convae"]
    header += [
        "JAX jit, ms: JAX / convae",
        "images/s",
        "GFLOP/s",
        "of GEMM peak",
        "memory, MB: convae / eager",
    ]
    mean = statistics.geometric_mean(ratios)
    note = (
        "float32, Adam; a ratio over 1 means that convae is faster (median and quartiles of "
        f"{ROUNDS} rounds). Geometric mean of the ratios: {mean:.2f}. "
        f"GEMM peak here: {peak / 1e9:.0f} GFLOP/s; JAX {JAX or 'not installed'}. "
        "Memory is what five steps add to the peak of a process that has done a tiny one, and in "
        "parentheses that peak."
    )
    keep("step_cpu", "python -m benchmarks.step", f"{note}\n\n{table(header, rows)}")


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["device=cpu"], ["device=gpu"]):
        sys.exit(f"error: {' '.join(sys.argv[1:])}: expected device=gpu, device=cpu or no argument")
    if sys.argv[1:] == ["device=gpu"]:
        from benchmarks.step_gpu import main
    main()
