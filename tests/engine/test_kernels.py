"""The CUDA kernels compile for the cards that we mean; test_cuda.py looks at their numbers."""

from __future__ import annotations

import pytest

from convae import engine
from convae.engine.gpu.backend import kernels

EDGES = [  # channels, size, filters, kernel, stride
    (1, (28, 28), 32, (5, 5), (2, 2)),
    (3, (9, 12), 8, (4, 3), (3, 1)),
    (2, (7, 5), 4, (1, 2), (2, 3)),
]


def edge(channels: int, size: tuple, filters: int, kernel: tuple, stride: tuple):
    """Resolve one of EDGES."""
    return engine.resolve(size=size, kernel=kernel, stride=stride, padding="same")


def sources() -> dict[str, str]:
    """Every kernel file, for shapes of all kinds, and in each way of storing arrays."""
    local = engine.resolve(size=(6, 7), kernel=3, stride=2, padding="same", tile=(3, 4))
    grouped = engine.resolve(size=(4, 5, 6), kernel=2, dilation=2, groups=2)
    found = {"step": kernels.source("step")}
    for case in EDGES:
        constants = kernels.edges_constants(edge(*case), case[0], case[2])
        found[f"edges {case}"] = kernels.source("edges", **constants)
    for dtype in kernels.STORAGE:
        found[f"edges {dtype}"] = kernels.source("edges", dtype, **constants)
        for name, geometry in (("local", local), ("grouped", grouped)):
            numbers = kernels.family_constants(geometry, 4, 6)
            found[f"family {name} {dtype}"] = kernels.source("family", dtype, **numbers)
    return found


SOURCES = sources()


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("name", SOURCES)
def test_kernels_compile(name: str, architecture: str) -> None:
    reason = "NVRTC, which comes with CUDA builds of PyTorch, is not installed"
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason=reason)
    pathfinder = pytest.importorskip("cuda.pathfinder", reason=reason)
    headers = {pathfinder.find_nvidia_header_directory(part) for part in ("cudart", "cccl")}
    options = [f"--gpu-architecture={architecture}", "--std=c++17"]
    options += [f"--include-path={folder}" for folder in headers if folder]
    _, program = nvrtc.nvrtcCreateProgram(SOURCES[name].encode(), b"", 0, [], [])
    encoded = [option.encode() for option in options]
    (result,) = nvrtc.nvrtcCompileProgram(program, len(encoded), encoded)
    _, size = nvrtc.nvrtcGetProgramLogSize(program)
    log = bytearray(size)
    nvrtc.nvrtcGetProgramLog(program, log)
    assert result == nvrtc.nvrtcResult.NVRTC_SUCCESS, log.decode()
    assert "warning" not in log.decode(), log.decode()


def test_what_the_edges_leave_to_others() -> None:
    plain = {"size": (8, 8), "kernel": 3}
    assert kernels.suits_edges(engine.resolve(**plain), 1, 32)
    for channels, filters, other in (
        (5, 32, {}),
        (1, 30, {}),
        (4, 1024, {}),
        (1, 1024, {"size": (8, 8), "kernel": (5, 1)}),
        (2, 32, {"groups": 2}),
        (1, 32, {"dilation": 2}),
        (1, 32, {"tile": 2}),
        (1, 32, {"size": (8,)}),
    ):
        geometry = engine.resolve(**{**plain, **other})
        assert not kernels.suits_edges(geometry, channels, filters)
