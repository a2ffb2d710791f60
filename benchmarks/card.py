"""What is measured on a GPU: ceilings, single ways, and whole steps, ours and PyTorch's."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from math import prod
from typing import Any

import numpy as np

import convae
from benchmarks.workloads import Workload, build
from convae import engine

PRECISIONS = ("tf32", "bfloat16", "float32")

TOLERANCES = {"float32": 1e-3, "tf32": 1e-3, "bfloat16": 1e-2}
"""The largest difference of the losses of two contestants, relative to the first loss."""

BATCH = 1024

WARM_UP = 3
"""Steps of PyTorch's before one is recorded."""

ROUNDS = 11

TURN_SECONDS = 0.02
"""How long a contestant is timed at a time."""

ON_MNIST = [Workload(BATCH, (1, 28, 28), layers) for layers in ("32@5/2 64@3/2", "32@5/1")]
ON_CIFAR = [
    Workload(BATCH, (3, 32, 32), layers) for layers in ("64@5/2 128@3/2", "64@5/2 64@3/1 64@3/1")
]
ON_THUMBNAILS = [
    Workload(BATCH, (3, 64, 64), layers)
    for layers in ("32@5/2 64@3/2 128@3/2", "32@5/2 64@5/2 128@5/2")
]
LARGER = [
    Workload(256, (3, 64, 64), "64@5/2"),
    Workload(256, (3, 64, 64), "64@5/2 128@3/2"),
    Workload(256, (3, 64, 64), "64@5/2 128@3/2 256@3/2"),
    Workload(64, (3, 224, 224), "64@5/2 128@3/2 256@3/2 512@3/2"),
]


def workloads() -> dict[str, Workload]:
    """Return the stacks that a card is measured with: large batches, and large images."""
    return {load.name: load for load in [*ON_MNIST, *ON_CIFAR, *ON_THUMBNAILS, *LARGER]}


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


def timed(call: Callable[[], object], count: int = 1) -> float:
    """Time a call by CUDA's events, in seconds."""
    from convae.engine.gpu import launching  # needs CuPy

    return launching.timed([call] * count) / count


def alternated(
    contestants: Mapping[str, Callable[[], object]], rounds: int = ROUNDS
) -> dict[str, list[float]]:
    """Time contestants in turns; seconds per call of each round."""
    counts = {}
    for name, call in contestants.items():
        timed(call, 3)
        counts[name] = max(1, round(TURN_SECONDS / max(timed(call, 3), 1e-7)))
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, call in contestants.items():
            times[name].append(timed(call, counts[name]))
    return times


def ceilings(side: int = 8192, megabytes: int = 1024) -> Iterator[tuple[str, float]]:
    """Measure the fastest copy, in bytes/s, and the fastest products, in FLOP/s."""
    import cupy

    a = cupy.zeros(megabytes << 18, "float32")
    b = cupy.empty_like(a)
    copy = min(timed(partial(cupy.copyto, b, a), 5) for _ in range(3))
    yield "copy, bytes/s", 2 * a.nbytes / copy
    del a, b
    for precision, dtype in (("float32", "float32"), ("tf32", "float32"), ("float16", "float16")):
        x = cupy.ones((side, side), dtype)
        with engine.backend_for("gpu", tf32=precision == "tf32")._products():
            seconds = min(timed(lambda x=x: x @ x, 3) for _ in range(3))
        yield f"product in {precision}, FLOP/s", 2 * side**3 / seconds


def launch_costs() -> Iterator[tuple[str, float]]:
    """Measure what an empty kernel and a graph of twenty of them cost, in seconds."""
    import cupy

    from convae.engine.gpu.recording import record

    kernel = cupy.RawKernel('extern "C" __global__ void empty() {}', "empty")
    yield "empty launch, s", timed(lambda: kernel((1,), (32,), ()), 200)
    graph, _ = record([lambda: kernel((1,), (32,), ())] * 20)
    current = cupy.cuda.get_current_stream()
    yield "graph of 20 empty kernels, s", timed(lambda: graph.launch(current), 100)


def our_step(
    workload: Workload, precision: str, gpu_engine: str
) -> tuple[convae.Autoencoder, Callable[[], Any]]:
    """Make our training step on a workload."""
    start, x = build(workload)
    storage = "bfloat16" if precision == "bfloat16" else None
    backend = engine.backend_for("gpu", tf32=precision == "tf32")
    model = convae.Autoencoder(**start.configuration(), storage=storage, backend=backend)
    step = convae.TrainingStep(model, convae.Adam(1e-3), gpu_engine=gpu_engine)
    images = model.xp.asarray(np.ascontiguousarray(x))
    return model, lambda: step(images)


def their_steps(
    workload: Workload, precision: str, is_compiled: bool = True
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Make PyTorch's steps: a whole one in a CUDA graph, and one compiled with max-autotune.

    The latter takes minutes, and is left out unless `is_compiled`.
    """
    import torch

    from benchmarks.peers import Peer

    torch._dynamo.reset()  # otherwise it would compile for dynamic shapes
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    model, x = build(workload)
    images = torch.tensor(np.ascontiguousarray(x), device="cuda")
    images = images.contiguous(memory_format=torch.channels_last)
    for name in ("whole step in a graph", "max-autotune")[: 1 + is_compiled]:
        peer = Peer(model).cuda().to(memory_format=torch.channels_last)
        is_graph = name != "max-autotune"
        forward = peer if is_graph else torch.compile(peer, mode=name)
        optimizer = torch.optim.Adam(peer.parameters(), 1e-3, fused=True, capturable=is_graph)

        def step(
            forward: Callable[[torch.Tensor], torch.Tensor] = forward,
            optimizer: torch.optim.Optimizer = optimizer,
        ) -> torch.Tensor:
            optimizer.zero_grad()
            with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bfloat16"):
                loss = torch.nn.functional.mse_loss(forward(images).float(), images)
            loss.backward()
            optimizer.step()
            return loss.detach()

        yield name, _captured(step) if is_graph else step


def _captured(step: Callable[[], Any]) -> Callable[[], Any]:
    """Record a step of PyTorch's as a CUDA graph, behind steps of warming up."""
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()

    def replay() -> Any:
        graph.replay()
        return loss

    return replay


def middle(times: list[float]) -> float:
    """Return the median."""
    return statistics.median(times)
