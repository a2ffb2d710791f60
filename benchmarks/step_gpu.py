"""A training step against PyTorch's on a GPU: python -m benchmarks.step device=gpu.

Each precision is measured in a separate process. Contestants are timed alternately with CUDA
events. The floor is the time a step would take if every operation were limited only by this GPU's
fastest copy or its fastest matrix product in that precision, both measured in the same process.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from math import prod

import numpy as np
import torch
from tqdm import tqdm

import convae
from benchmarks.measure import keep, ratio, table
from benchmarks.peers import Peer
from benchmarks.workloads import WORKLOADS, Workload, build
from convae import engine
from convae.engine.gpu.cuda import KernelBackend
from convae.training.captured_step import CapturedStep

PRECISIONS = {"float32": 1e-3, "tf32": 1e-3, "bfloat16": 1e-2}
"""Precisions, and the largest difference between losses, relative to the first loss."""

BATCH = 1024
ROUNDS = 21

OURS = 2
"""Number of contestants that are ours; they come first."""

LARGER: dict[str, Workload] = {
    "3x64x64 b256: 64@5/2 128@3/2 256@3/2": (
        256,
        (3, 64, 64),
        [(64, 5, 2), (128, 3, 2), (256, 3, 2)],
    ),
    "3x224x224 b64: 64@5/2 128@3/2 256@3/2 512@3/2": (
        64,
        (3, 224, 224),
        [(64, 5, 2), (128, 3, 2), (256, 3, 2), (512, 3, 2)],
    ),
}


def workloads() -> dict[str, Workload]:
    """Return the CPU workloads with large batches, and two larger workloads."""
    scaled = {
        f"{name.split()[0]} b{BATCH}: {name.partition(': ')[2]}": (BATCH, shape, layers)
        for name, (_, shape, layers) in WORKLOADS.items()
    }
    return {**scaled, **LARGER}


def floor(
    model: convae.Autoencoder, batch: int, rate: float, bandwidth: float, itemsize: int = 4
) -> float:
    """Estimate the minimum seconds per step from `rate` in FLOP/s and `bandwidth` in bytes/s."""
    # Each of a layer's c, h and g reads two arrays and writes one of at most that size; elementwise
    # work counts as part of them.
    seconds = 0.0
    for index, layer in enumerate(model.layers):
        macs = layer.geometry.macs(layer.input_shape[0], layer.spec.filters)
        numbers = prod(layer.input_shape) + prod(layer.output_shape)
        once = max(2 * macs * batch / rate, itemsize * numbers * batch / bandwidth)
        seconds += (5 if index == 0 else 6) * once  # no gradient below the lowest layer
    return seconds


def interleaved_on_gpu(contestants: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Time the contestants alternately with CUDA events, about 20 ms each; seconds per call."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]

    def timed(call: Callable[[], object], count: int) -> float:
        events[0].record()
        for _ in range(count):
            call()
        events[1].record()
        torch.cuda.synchronize()
        return events[0].elapsed_time(events[1]) / 1e3 / count

    counts = {}
    for name, call in contestants.items():
        timed(call, 3)
        counts[name] = max(1, round(0.02 / timed(call, 3)))
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name, call in contestants.items():
            times[name].append(timed(call, counts[name]))
    return times


def peaks(precision: str) -> tuple[float, float]:
    """Measure this GPU's fastest matrix product, in FLOP/s, and fastest copy, in bytes/s."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a = torch.rand(8192, 8192, device="cuda", dtype=dtype)
    b = torch.rand(1 << 28, device="cuda")
    target = torch.empty_like(b)
    times = interleaved_on_gpu({"product": lambda: a @ a, "copy": lambda: target.copy_(b)})
    return 2 * 8192**3 / min(times["product"]), 8 * b.numel() / min(times["copy"])


def peers(
    model: convae.Autoencoder, x: np.ndarray, precision: str
) -> dict[str, Callable[[], torch.Tensor]]:
    """Create PyTorch's steps: eager, channels last, and compiled with CUDA graphs."""
    torch._dynamo.reset()  # otherwise it would compile for dynamic shapes
    torch.backends.cudnn.benchmark = True
    steps: dict[str, Callable[[], torch.Tensor]] = {}
    for name in ("eager", "channels_last", "max-autotune"):
        peer, images = Peer(model).cuda(), torch.tensor(x, device="cuda")
        if name != "eager":
            peer = peer.to(memory_format=torch.channels_last)
            images = images.contiguous(memory_format=torch.channels_last)
        forward = torch.compile(peer, mode=name) if name == "max-autotune" else peer
        optimizer = torch.optim.Adam(peer.parameters(), 1e-3, fused=True)

        def step(
            forward: Callable[[torch.Tensor], torch.Tensor] = forward,
            images: torch.Tensor = images,
            optimizer: torch.optim.Optimizer = optimizer,
        ) -> torch.Tensor:
            optimizer.zero_grad()
            with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bfloat16"):
                loss = torch.nn.functional.mse_loss(forward(images).float(), images)
            loss.backward()
            optimizer.step()
            return loss.detach()

        steps[name] = step
    return steps


def contestants(
    workload: Workload, precision: str
) -> tuple[convae.Autoencoder, dict[str, Callable[[], object]]]:
    """Create every contestant's step and check that the losses of three steps agree."""
    start, pixels = build(workload)
    x, arguments = np.ascontiguousarray(pixels), start.configuration()
    storage = "bfloat16" if precision == "bfloat16" else None
    portable_backend = engine.backend_for("gpu", tf32=precision == "tf32")
    ours, recorded = (
        convae.Autoencoder(**arguments, storage=storage, backend=backend)
        for backend in (portable_backend, KernelBackend(portable_backend.xp))
    )
    images = ours.xp.asarray(x)
    portable = convae.TrainingStep(ours, convae.Adam(1e-3))
    captured = CapturedStep(recorded, convae.Adam(1e-3), len(x))

    def graph() -> object:
        captured(images)
        return captured.loss()

    steps = {
        "portable": lambda: portable(images),
        "captured": graph,
        **peers(start, x, precision),
    }
    losses = {who: [float(step()) for _ in range(3)] for who, step in steps.items()}
    expected = np.array(losses["eager"])
    for who, found in losses.items():
        difference = np.abs(found - expected).max() / expected[0]
        assert difference < PRECISIONS[precision], (
            f"{workload}, {who}: losses differ by {difference}"
        )
    return ours, steps


def measure(precision: str) -> list[list[str]]:
    """Measure every workload in one precision."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    rate, bandwidth = peaks(precision)
    rows = []
    for name, workload in tqdm(workloads().items(), desc=precision, disable=None):
        model, steps = contestants(workload, precision)
        times = interleaved_on_gpu(steps)
        medians = {who: statistics.median(values) for who, values in times.items()}
        ours, theirs = list(steps)[:OURS], list(steps)[OURS:]
        mine, best = (min(names, key=medians.__getitem__) for names in (ours, theirs))
        median, low, high = ratio(times[best], times[mine])
        itemsize = 2 if precision == "bfloat16" else 4
        least = floor(model, workload[0], rate, bandwidth, itemsize)
        rows.append(
            [
                name,
                precision,
                *(
                    ", ".join(f"{who} {1e3 * medians[who]:.3f}" for who in names)
                    for names in (ours, theirs)
                ),
                f"{median:.2f} ({low:.2f} to {high:.2f})",
                f"{1e3 * least:.3f}",
                f"{medians[mine] / least:.1f}",
            ]
        )
    return rows


def main() -> None:
    """Measure every precision, each in a separate process."""
    missing = engine.missing_gpu() or ("" if torch.cuda.is_available() else "PyTorch finds no GPU")
    if missing:
        sys.exit(f"error: device: 'gpu' was asked for, but {missing}")
    rows = []
    for precision in PRECISIONS:
        command = [sys.executable, "-m", "benchmarks.step_gpu", precision]
        rows += json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    header = ["workload", "precision", "convae, ms", "PyTorch, ms", "PyTorch's best / convae"]
    header += ["floor, ms", "convae / floor"]
    note = (
        f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, CuPy "
        f"{engine.backend_for('gpu').xp.__version__}; Adam; a ratio over 1 means that convae is "
        f"faster (median and quartiles of {ROUNDS} rounds)."
    )
    keep("step_gpu", "python -m benchmarks.step device=gpu", f"{note}\n\n{table(header, rows)}")


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))
