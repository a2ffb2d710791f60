"""Local and tiled c, h, g against unfold and einsum in PyTorch: python -m benchmarks.sharing.

PyTorch supports neither kind of kernel. Its users instead unfold the input into columns, contract
them with one kernel per position, and fold; a tiled kernel is first expanded to all positions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.measure import interleaved, keep, ratio, table
from convae import engine

WORKLOADS = {  # name: (examples, channels, side, filters, kernel, stride)
    "1x28x28, 32@5x5/2": (128, 1, 28, 32, 5, 2),
    "32x14x14, 64@3x3/2": (128, 32, 14, 64, 3, 2),
    "3x32x32, 32@3x3": (64, 3, 32, 32, 3, 1),
    "32x16x16, 64@3x3/2": (64, 32, 16, 64, 3, 2),
}
SHARINGS: dict[str, int | None] = {"shared": None, "tiled 2x2": 2, "local": 0}


def peers(
    K: torch.Tensor, V: torch.Tensor, G: torch.Tensor, stride: int, tile: tuple[int, ...]
) -> dict[str, Callable[[], torch.Tensor]]:
    """Return the three operations as PyTorch users write them."""
    (filters, channels, kernel), side, out = (K.shape[0], *K.shape[-3:-1]), V.shape[2], G.shape[2]
    padding = (kernel - 1) // 2
    fold = {"kernel_size": kernel, "stride": stride, "padding": padding}
    if not tile:
        output_padding = side - ((out - 1) * stride + kernel - 2 * padding)
        return {
            "c": lambda: torch.nn.functional.conv2d(V, K, None, stride, padding),
            "h": lambda: torch.nn.functional.conv_transpose2d(
                G, K, None, stride, padding, output_padding
            ),
            "g": lambda: torch.nn.grad.conv2d_weight(V, K.shape, G, stride, padding),
        }
    turns = [torch.arange(out) % t for t in tile]

    def spread() -> torch.Tensor:
        return K[:, turns[0]][:, :, turns[1]].reshape(filters, out * out, -1)

    def columns() -> torch.Tensor:
        return torch.nn.functional.unfold(V, **fold)

    def c() -> torch.Tensor:
        return torch.einsum("nep,fpe->nfp", columns(), spread()).reshape(G.shape)

    def h() -> torch.Tensor:
        product = torch.einsum("fpe,nfp->nep", spread(), G.reshape(len(G), filters, -1))
        return torch.nn.functional.fold(product, side, **fold)

    def g() -> torch.Tensor:
        dK = torch.einsum("nfp,nep->fpe", G.reshape(len(G), filters, -1), columns())
        dK = dK.reshape(filters, out, out, channels, kernel, kernel)
        for axis, turn in enumerate(turns, start=1):
            shape = [*dK.shape]
            shape[axis] = tile[axis - 1]
            dK = torch.zeros(shape).index_add_(axis, turn, dK)
        return dK

    return {"c": c, "h": h, "g": g}


def measure(workload: tuple[int, ...], tile: int | None) -> dict[str, dict[str, list[float]]]:
    """Check a workload's operations against PyTorch, then time both alternately."""
    examples, channels, side, filters, kernel, stride = workload
    how = {"stride": stride, "padding": "same"}
    out = engine.resolve(size=(side, side), kernel=kernel, **how).output
    tiles = () if tile is None else (tile, tile) if tile else out
    rng = np.random.default_rng(0)
    shapes = (
        (filters, *tiles, channels, kernel, kernel),
        (examples, channels, side, side),
        (examples, filters, *out),
    )
    K, V, G = (rng.standard_normal(shape, dtype="float32") for shape in shapes)
    theirs = peers(*(torch.tensor(array) for array in (K, V, G)), stride, tiles)
    ours = {
        "c": lambda: engine.c(K, V, **how),
        "h": lambda: engine.h(K, G, size=side, **how),
        "g": lambda: engine.g(G, V, kernel=kernel, tile=tiles or None, **how),
    }
    times = {}
    for name in ours:
        expected, actual = theirs[name]().numpy(), ours[name]()
        error = np.linalg.norm(actual - expected) / np.linalg.norm(expected)
        assert error < 1e-5, f"{name}: PyTorch and convae differ by {error}"
        times[name] = interleaved({"theirs": theirs[name], "ours": ours[name]})
    return times


def main() -> None:
    """Measure every workload with every kind of kernel."""
    rows = []
    cases = [(w, s) for w in WORKLOADS for s in SHARINGS]
    for workload, sharing in tqdm(cases, desc="benchmark", unit=" cases", disable=None):
        for name, times in measure(WORKLOADS[workload], SHARINGS[sharing]).items():
            median, least, most = ratio(times["theirs"], times["ours"])
            ours, theirs = (1e3 * float(np.median(times[who])) for who in ("ours", "theirs"))
            rows.append(
                [
                    workload,
                    sharing,
                    name,
                    f"{ours:.2f}",
                    f"{theirs:.2f}",
                    f"{median:.2f} ({least:.2f} to {most:.2f})",
                ]
            )
    header = ["input, layer", "kernel", "", "convae, ms", "PyTorch, ms", "PyTorch / convae"]
    note = "float32; a ratio over 1 means that convae is faster (median and quartiles of 9 rounds)."
    keep("sharing", "python -m benchmarks.sharing", f"{note}\n\n{table(header, rows)}")


if __name__ == "__main__":
    main()
