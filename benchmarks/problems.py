"""The single operations that are benchmarked: of stacks, and with other kinds of kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from benchmarks.workloads import TUNED, Workload
from convae import engine
from convae.engine.backend import filters_first, filters_last
from convae.engine.geometry import Geometry


class Problem(NamedTuple):
    """One of c, h and g, with zeros around the input so that a stride of 1 keeps its size.

    Parameters
    ----------
    operation : str
        Which.
    examples, channels : int
        Of the input.
    size : tuple of int
        Its positions, along 1 to 3 axes.
    filters, kernel, stride : int
        Of the layer; kernel and stride are the same along every axis.
    dilation, groups : int
        As `convae.engine.c` takes them.
    tile : int or None
        Kernels that alternate along every axis; 0 for one at every position, None for a shared one.
    source : str
        Where people find such a layer.
    """

    operation: str
    examples: int
    channels: int
    size: tuple[int, ...]
    filters: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    tile: int | None = None
    source: str = ""

    @property
    def name(self) -> str:
        """What a table calls it."""
        words = [f"{'x'.join(map(str, (self.channels, *self.size)))} b{self.examples}:"]
        words.append(f"{self.filters}@{self.kernel}/{self.stride}")
        words += [f"dilation {self.dilation}"] * (self.dilation > 1)
        words += [f"{self.groups} groups"] * (self.groups > 1)
        if self.tile is not None:
            words.append(f"{self.tile} kernels an axis" if self.tile else "local")
        return " ".join([*words, self.operation])

    @property
    def geometry(self) -> Geometry:
        """The geometry, with its tile."""
        how = {"size": self.size, "kernel": self.kernel, **self.how}
        tile = 1 if self.tile is None else self.tile or engine.resolve(**how).output
        return engine.resolve(**how, tile=tile)

    @property
    def how(self) -> dict[str, Any]:
        """Arguments of all three operations."""
        return {
            "stride": self.stride,
            "padding": (self.kernel - 1) * self.dilation // 2,
            "dilation": self.dilation,
            "groups": self.groups,
        }

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw K, V and G, whose sums of products do not cancel."""
        rng, geometry = np.random.default_rng(0), self.geometry
        tile = () if self.tile is None else geometry.tile
        shapes = (
            (self.filters, *tile, self.channels // self.groups, *geometry.kernel),
            (self.examples, self.channels, *self.size),
            (self.examples, self.filters, *geometry.output),
        )
        one, two, three = (rng.random(shape, dtype="float32") for shape in shapes)
        return one, two, three


def layers_of(workload: Workload) -> Iterator[tuple[int, ...]]:
    """List examples, channels, side, filters, kernel and stride of a stack's layers."""
    channels, side, _ = workload.shape
    for layer in workload.build_layers():
        yield workload.batch, channels, side, layer.filters, layer.kernel, layer.stride
        channels, side = layer.filters, -(-side // layer.stride)


LAYERS = [
    Problem("c", n, C, (side, side), O, kernel, stride, source="a stack of the other tables")
    for n, C, side, O, kernel, stride in dict.fromkeys(
        layer for workload in TUNED for layer in layers_of(workload)
    )
]

OTHERS = [
    Problem("c", 16, 1, (16000,), 32, 79, 4, source="Dai 2016, M5: a second of sound"),
    Problem("c", 32, 64, (1024,), 64, 3, dilation=8, source="Bai 2018, temporal convolutions"),
    Problem("c", 32, 12, (1000,), 32, 7, 2, source="electrocardiograms of twelve leads"),
    Problem("c", 16, 1, (32, 32, 32), 32, 3, 2, source="voxels of ModelNet"),
    Problem("c", 8, 32, (16, 16, 16), 64, 3, 2, source="their next layer"),
    Problem("c", 2, 3, (16, 112, 112), 32, 3, 2, source="Tran 2015, video"),
    Problem("c", 16, 64, (32, 32), 64, 3, dilation=2, source="Yu 2016, dilated"),
    Problem("c", 32, 128, (28, 28), 128, 3, groups=32, source="Xie 2017, ResNeXt"),
    Problem("c", 32, 64, (28, 28), 64, 3, groups=4, source="a few groups"),
    Problem("c", 32, 64, (28, 28), 64, 3, groups=64, source="Howard 2017, MobileNet, depthwise"),
    Problem("c", 128, 1, (28, 28), 32, 5, 2, tile=0, source="Deep Learning, section 9.5"),
    Problem("c", 128, 32, (14, 14), 64, 3, 2, tile=0, source="its next layer"),
    Problem("c", 64, 3, (32, 32), 32, 3, tile=0, source="CIFAR-10"),
    Problem("c", 64, 32, (16, 16), 64, 3, 2, tile=0, source="its next layer"),
    Problem("c", 128, 1, (28, 28), 32, 5, 2, tile=2, source="Deep Learning, section 9.5"),
    Problem("c", 128, 32, (14, 14), 64, 3, 2, tile=2, source="its next layer"),
    Problem("c", 64, 3, (32, 32), 32, 3, tile=2, source="CIFAR-10"),
    Problem("c", 64, 32, (16, 16), 64, 3, 2, tile=2, source="its next layer"),
]

PROBLEMS = [p._replace(operation=name) for p in [*LAYERS, *OTHERS] for name in "chg"]

TINY = Problem("c", 2, 2, (6, 6), 4, 3)


def middle(result: Any) -> float:
    """Return the number in the middle of an array or tensor, by which contestants are compared."""
    return float(result[tuple(n // 2 for n in result.shape)])


def our_operation(problem: Problem) -> Callable[[], float]:
    """Call the operation on arrays that lie as those of a model do."""
    K, V, G = problem.arrays()
    V, G = map(engine.backend_for("cpu").arrange, (V, G))
    axes = len(problem.size)
    K = filters_first(np.ascontiguousarray(filters_last(K, axes)), axes)
    how, tile = problem.how, None if problem.tile is None else problem.geometry.tile
    calls: dict[str, Callable[[], np.ndarray]] = {
        "c": lambda: engine.c(K, V, **how),
        "h": lambda: engine.h(K, G, size=problem.size, **how),
        "g": lambda: engine.g(G, V, kernel=problem.kernel, tile=tile, **how),
    }
    call = calls[problem.operation]
    return lambda: middle(call())


def their_operation(problem: Problem, channels_last: bool = False) -> Callable[[], float]:
    """Call PyTorch's convolution, or the gradients as its autograd calls them."""
    import torch

    form = torch.contiguous_format
    if channels_last:
        form = torch.channels_last if len(problem.size) == 2 else torch.channels_last_3d
    K, V, G = (torch.tensor(a).contiguous(memory_format=form) for a in problem.arrays())
    axes = len(problem.size)
    how = [[entry] * axes for entry in (problem.how[n] for n in ("stride", "padding", "dilation"))]
    forward, gradient = torch.ops.aten.convolution, torch.ops.aten.convolution_backward
    last = (False, [0] * axes, problem.groups)
    calls = {
        "c": lambda: forward(V, K, None, *how, *last),
        "h": lambda: gradient(G, V, K, None, *how, *last, [True, False, False])[0],
        "g": lambda: gradient(G, V, K, None, *how, *last, [False, True, False])[1],
    }
    return _without_autograd(calls[problem.operation])


def their_local_operation(problem: Problem) -> Callable[[], float]:
    """Do what PyTorch's users write for kernels that differ by position: unfold and einsum.

    A tiled kernel is expanded to all positions first.
    """
    import torch

    K, V, G = map(torch.tensor, problem.arrays())
    names = ("stride", "padding", "dilation")
    fold = {"kernel_size": problem.kernel, **{name: problem.how[name] for name in names}}
    rows, columns = problem.geometry.output
    turns = [
        torch.arange(n) % t for n, t in zip((rows, columns), problem.geometry.tile, strict=True)
    ]
    is_local = problem.tile == 0

    def spread() -> torch.Tensor:
        every = K.reshape(problem.filters, *problem.geometry.tile, -1)
        if not is_local:
            every = every[:, turns[0]][:, :, turns[1]]
        return every.reshape(problem.filters, rows * columns, -1)

    def unfolded() -> torch.Tensor:
        return torch.nn.functional.unfold(V, **fold)

    def c() -> torch.Tensor:
        return torch.einsum("nep,fpe->nfp", unfolded(), spread()).reshape(G.shape)

    def h() -> torch.Tensor:
        product = torch.einsum("fpe,nfp->nep", spread(), G.flatten(2))
        return torch.nn.functional.fold(product, problem.size, **fold)

    def g() -> torch.Tensor:
        dK = torch.einsum("nfp,nep->fpe", G.flatten(2), unfolded())
        dK = dK.reshape(problem.filters, rows, columns, *K.shape[3:])
        for axis, turn in enumerate([] if is_local else turns, start=1):
            shape = [*dK.shape]
            shape[axis] = K.shape[axis]
            dK = torch.zeros(shape).index_add_(axis, turn, dK)
        return dK

    return _without_autograd({"c": c, "h": h, "g": g}[problem.operation])


def _without_autograd(call: Callable[[], Any]) -> Callable[[], float]:
    """Return what calls PyTorch as it is fastest."""
    import torch

    def measured() -> float:
        with torch.inference_mode():
            return middle(call())

    return measured
