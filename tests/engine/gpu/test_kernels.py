"""The CUDA kernels compile for the cards that they are for; test_ways.py checks their numbers."""

from __future__ import annotations

import re
from itertools import product

import pytest

import convae
from convae import Layer
from convae.engine.gpu import kernels
from convae.engine.gpu.kernels import edges
from convae.engine.program import Problem
from convae.models.gradient_program import GradientProgram
from convae.models.penalties import NONE

LOCAL = [
    Layer(16, 3, stride=2, padding="same", sharing="tiled", tile=2, activation="tanh"),
    Layer(8, 3, padding="same", sharing="local", groups=2, activation="softplus"),
]
DEEP = [
    Layer(8, 3, dilation=2, activation="leaky_relu"),
    Layer(24, 2, stride=2, activation="sigmoid", tied=False, visible_bias="position"),
]
PLAIN = [Layer(32, 5, stride=2, padding="same"), Layer(64, 3, stride=2, padding="same")]
MODELS = {
    "plain": ((1, 28, 28), PLAIN),
    "local": ((2, 14), LOCAL),
    "deep": ((3, 9, 10, 8), DEEP),
}
EDGES = {
    "one channel": ((1, 28, 28), PLAIN[:1]),
    "colours": ((3, 20, 20), [Layer(64, 5, stride=2, padding="same")]),
    "uneven": (
        (2, 9, 11),
        [Layer(40, (4, 3), stride=(3, 1), padding=((2, 1), (0, 3)), activation="tanh")],
    ),
    "dilated": ((4, 15, 13), [Layer(24, 3, dilation=2, activation="sigmoid")]),
    "many filters": ((3, 13, 9), [Layer(136, 3, padding="same")]),
    "large": ((4, 12, 12), [Layer(64, 5)]),
    "three axes": ((1, 7, 8, 7), [Layer(16, 3, stride=2, padding="same")]),
    "one axis": ((2, 40), [Layer(8, 9, stride=4)]),
}
"""Models of few channels, for `edges`."""


def problems(
    shape: tuple[int, ...],
    layers: list[Layer],
    loss: str = "mse",
    storage: str | None = None,
    examples: int = 100,
) -> list[Problem]:
    """The products of a model's program, perhaps as if activations were stored shorter."""
    model = convae.Autoencoder(shape, layers, loss=loss)
    found = list(GradientProgram(model, examples, NONE, False).program.problems())
    if storage is not None:
        found = [shorter(problem, storage) for problem in found]
    return [problem for problem in found if kernels.suits_products(problem)]


def shorter(problem: Problem, storage: str) -> Problem:
    """Store a problem's batches and kernels in two bytes."""
    short = ("K", "V", "G", "Z", "H", "E", "extra")
    arrays = tuple((r, s, storage if r in short else d) for r, s, d in problem.arrays)
    others = problem.written, problem.updated, problem.settings
    return Problem(problem.operation, arrays, *others)


def sources() -> dict[str, str]:
    """Every kernel file, for shapes of all kinds, and in each way of storing arrays."""
    found = {"passes": kernels.source("passes")}
    numbers = {"CLIP": 1.0, "PENALTY": 0.1}
    momentum = {"METHOD": 1, "MOMENTUM": 0.9, "NESTEROV": 1}
    moments = {"METHOD": 2, "BETA1": 0.9, "BETA2": 0.999, "EPSILON": 1e-8, "DECAYS": 1}
    for name, method in (("momentum", momentum), ("moments", moments)):
        found[f"update {name}"] = kernels.source("update", **numbers, **method)
    kinds = [("float32", 0), *((dtype, tensor) for dtype, tensor in kernels.TENSOR.items())]
    for name, (dtype, tensor), examples in product(MODELS, kinds, (10, 5000)):
        storage = None if dtype == "float32" else dtype
        loss = "bce" if name == "local" else "mse"
        own = problems(*MODELS[name], loss, storage, examples)
        for index, problem in enumerate(own):
            kind = f"{problem.operation} {index} of {name} b{examples}, {dtype}, tensor={tensor}"
            constants = kernels.product_constants(problem, tensor)
            found[kind] = kernels.source(kernels.product_of(problem), dtype, **constants)
            if problem.operation in ("h", "error") and kernels.box_of(problem) and not tensor:
                constants = kernels.narrow_constants(problem)
                found[f"narrow {kind}"] = kernels.source("narrow", dtype, **constants)
            if name == "plain" and index % 3 == 0:
                around = kernels.convolution_constants(problem) | {"SUM_T": "float"}
                found[f"around {kind}"] = kernels.source("around", dtype, **around)
    for (name, model), (dtype, tensor) in product(EDGES.items(), kernels.TENSOR.items()):
        for index, problem in enumerate(problems(*model, storage=dtype, examples=4096)):
            kind = f"edge {problem.operation} {index} of {name}, {dtype}"
            file = f"edge_{kernels.product_of(problem)}"
            found[kind] = kernels.source(file, dtype, **edges.edge_constants(problem, tensor))
    return found


SOURCES = sources()


def compiled(source: str, architecture: str) -> str:
    """Compile to a card's own code, and return what NVRTC and ptxas say."""
    reason = "NVRTC, which comes with CUDA builds of PyTorch, is not installed"
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason=reason)
    pathfinder = pytest.importorskip("cuda.pathfinder", reason=reason)
    headers = {pathfinder.find_nvidia_header_directory(part) for part in ("cudart", "cccl")}
    options = [f"--gpu-architecture={architecture}", "--std=c++17", "--ptxas-options=-v"]
    options += [f"--include-path={folder}" for folder in headers if folder]
    _, program = nvrtc.nvrtcCreateProgram(source.encode(), b"", 0, [], [])
    encoded = [option.encode() for option in options]
    (result,) = nvrtc.nvrtcCompileProgram(program, len(encoded), encoded)
    _, size = nvrtc.nvrtcGetProgramLogSize(program)
    log = bytearray(size)
    nvrtc.nvrtcGetProgramLog(program, log)
    assert result == nvrtc.nvrtcResult.NVRTC_SUCCESS, log.decode()
    return log.decode()


def spilled(log: str) -> list[str]:
    """List what ptxas says of spills, where there are any."""
    found = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log)
    assert found
    return [f"{stores} stored, {loads} loaded" for stores, loads in found if stores + loads != "00"]


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize(
    "architecture",
    ["sm_90", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sm_80", "sm_100"))],
)
def test_kernels_compile_without_spills(name: str, architecture: str) -> None:
    log = compiled(SOURCES[name], architecture)
    assert "warning" not in log, log
    assert spilled(log) == []


def test_spills_are_seen() -> None:
    """A planted fault: more numbers in use at a time than there are registers."""
    lines = [f"float x{i} = a[{i} * n] * n;" for i in range(300)]
    lines += [
        "for (int i = 0; i < n; ++i) {",
        *(f"x{i} += x{(i * 7 + 1) % 300};" for i in range(300)),
    ]
    lines += ["}", *(f"a[{i}] = x{i};" for i in range(300))]
    body = "\n".join(lines)
    source = f'extern "C" __global__ void k(float* a, int n) {{\n{body}\n}}'
    assert spilled(compiled(source, "sm_90"))
