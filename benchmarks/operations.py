"""c, h and g against PyTorch on the layers of the workloads: python -m benchmarks.operations."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.measure import interleaved, keep, ratio, table
from benchmarks.workloads import TUNED
from convae import engine


def layers() -> list[tuple[int, int, int, int, int, int]]:
    """List (examples, channels, side, filters, kernel, stride) of every distinct layer."""
    found = {}
    for workload in TUNED:
        channels, side, _ = workload.shape
        for layer in workload.build_layers():
            found[workload.batch, channels, side, layer.filters, layer.kernel, layer.stride] = None
            channels, side = layer.filters, -(-side // layer.stride)
    return list(found)


def theirs(
    K: torch.Tensor, V: torch.Tensor, G: torch.Tensor, stride: int, form: torch.memory_format
) -> dict[str, Callable[[], torch.Tensor]]:
    """Return the three operations in PyTorch; h and g as its autograd calls them."""
    K, V, G = (tensor.contiguous(memory_format=form) for tensor in (K, V, G))
    padding, none = K.shape[-1] // 2, [0, 0]
    how = (None, [stride] * 2, [padding] * 2, [1, 1], False, none, 1)
    gradient = torch.ops.aten.convolution_backward
    return {
        "c": lambda: torch.nn.functional.conv2d(V, K, None, stride, padding),
        "h": lambda: gradient(G, V, K, *how, [True, False, False])[0],
        "g": lambda: gradient(G, V, K, *how, [False, True, False])[1],
    }


def measure(layer: tuple[int, ...]) -> dict[str, dict[str, list[float]]]:
    """Check a layer's operations against PyTorch, then time both alternately."""
    examples, channels, side, filters, kernel, stride = layer
    how = {"stride": stride, "padding": "same"}
    out = -(-side // stride)
    rng = np.random.default_rng(0)
    shapes = (
        (filters, channels, kernel, kernel),
        (examples, channels, side, side),
        (examples, filters, out, out),
    )
    arrays = [rng.standard_normal(shape, dtype="float32") for shape in shapes]
    formats = {"PyTorch": torch.contiguous_format, "channels_last": torch.channels_last}
    peers = {
        name: theirs(*map(torch.tensor, arrays), stride, form) for name, form in formats.items()
    }
    K, V, G = arrays[0], *map(engine.backend_for("cpu").arrange, arrays[1:])
    ours = {
        "c": lambda: engine.c(K, V, **how),
        "h": lambda: engine.h(K, G, size=side, **how),
        "g": lambda: engine.g(G, V, kernel=kernel, **how),
    }
    times = {}
    for name, operation in ours.items():
        expected = peers["PyTorch"][name]().numpy()
        error = np.linalg.norm(operation() - expected) / np.linalg.norm(expected)
        assert error < 1e-5, f"{name}: PyTorch and convae differ by {error}"
        rivals = {who: calls[name] for who, calls in peers.items()}
        times[name] = interleaved({"convae": operation, **rivals})
    return times


def main() -> None:
    """Measure every layer."""
    rows = []
    for layer in tqdm(layers(), desc="benchmark", unit=" layers", disable=None):
        examples, channels, side, filters, kernel, stride = layer
        macs = engine.resolve(size=(side, side), kernel=kernel, stride=stride, padding="same").macs
        for name, times in measure(layer).items():
            ours = times.pop("convae")
            best = min(times.values(), key=statistics.median)
            median, least, most = ratio(best, ours)
            others = ", ".join(f"{w} {1e3 * statistics.median(t):.2f}" for w, t in times.items())
            seconds = statistics.median(ours)
            rows.append(
                [
                    f"{channels}x{side}x{side} b{examples}, {filters}@{kernel}/{stride}",
                    name,
                    f"{1e3 * seconds:.2f}",
                    others,
                    f"{median:.2f} ({least:.2f} to {most:.2f})",
                    f"{2e-9 * macs(channels, filters) * examples / seconds:.0f}",
                ]
            )
    header = ["input, layer", "", "convae, ms", "PyTorch, ms", "PyTorch's best / convae", "GFLOP/s"]
    note = "float32; a ratio over 1 means that convae is faster (median and quartiles of 9 rounds)."
    keep("operations_cpu", "python -m benchmarks.operations", f"{note}\n\n{table(header, rows)}")


if __name__ == "__main__":
    main()
