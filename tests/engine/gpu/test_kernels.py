"""The CUDA kernels compile for the cards that they are for; test_cuda.py checks their numbers."""

from __future__ import annotations

import pytest

from convae import engine
from convae.engine.gpu import kernels
from tests.problems import EDGES


def sources() -> dict[str, str]:
    """Every kernel file, for shapes of all kinds, and in each way of storing arrays."""
    local = engine.resolve(size=(6, 7), kernel=3, stride=2, padding="same", tile=(3, 4))
    grouped = engine.resolve(size=(4, 5, 6), kernel=2, dilation=2, groups=2)
    found = {"step": kernels.source("step")}
    for case in EDGES:
        constants = kernels.edges_constants(case.geometry, case.channels, case.filters)
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


@pytest.mark.parametrize(
    ("channels", "filters", "other"),
    [
        (5, 32, {}),
        (1, 30, {}),
        (4, 1024, {}),
        (1, 1024, {"size": (8, 8), "kernel": (5, 1)}),
        (2, 32, {"groups": 2}),
        (1, 32, {"dilation": 2}),
        (1, 32, {"tile": 2}),
        (1, 32, {"size": (8,)}),
    ],
)
def test_edges_are_for_few_channels_and_ordinary_kernels(
    channels: int, filters: int, other: dict
) -> None:
    plain = {"size": (8, 8), "kernel": 3}
    assert kernels.suits_edges(engine.resolve(**plain), 1, 32)
    assert not kernels.suits_edges(engine.resolve(**{**plain, **other}), channels, filters)
