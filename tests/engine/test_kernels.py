"""The CUDA kernels: they compile for the cards that we mean, and a CPU gets the right numbers."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from convae import Adam, AdamW, engine
from convae.engine import definition, kernels
from tests.engine.problems import Problem, problems
from tests.engine.test_direct import error

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


def emulated(folder: Path, source: str, launches: str) -> ctypes.CDLL:
    """Compile a kernel file for the CPU, together with functions that launch its kernels."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    emulator = (Path(__file__).parent / "emulator.h").read_text()
    path = folder / f"{abs(hash(source))}.cpp"
    path.write_text(f"{emulator}\n{source}\n{launches}")
    library = path.with_suffix(".so")
    flags = ["-std=c++20", "-O1", "-shared", "-fPIC", "-pthread", "-w"]
    subprocess.run([compiler, *flags, str(path), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


THREE = """
extern "C" void launch_{0}(int blocks, int x, int y, const float* a, const float* b, float* d,
    int N)
{{ launch(Index{{blocks, 1, 1}}, Index{{x, y, 1}}, {0}, a, b, d, N); }}
"""


def blocks(work: int) -> int:
    return -(-work // kernels.THREADS)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(problem=problems())
def test_the_family_equals_the_definition(tmp_path: Path, problem: Problem) -> None:
    K, V, G = problem.arrays("float32")
    geometry = engine.resolve(
        size=V.shape[2:],
        kernel=problem.kernel,
        tile=problem.tile or 1,
        **problem.how,
    )
    C, O, N = V.shape[1], K.shape[0], len(V)
    source = kernels.source("family", **kernels.family_constants(geometry, C, O))
    library = emulated(tmp_path, source, "".join(THREE.format(name) for name in "chg"))
    V_last, G_last = (np.ascontiguousarray(np.moveaxis(a, 0, -1)) for a in (V, G))
    Z, R, dK = (np.full_like(a, np.nan) for a in (G_last, V_last, K))
    threads = kernels.THREADS
    library.launch_c(blocks(Z.size), threads, 1, *map(pointer, (K, V_last, Z)), N)
    library.launch_h(blocks(R.size), threads, 1, *map(pointer, (K, G_last, R)), N)
    library.launch_g(K.size, threads, 1, *map(pointer, (G_last, V_last, dK)), N)
    wide = [a.astype("float64") for a in (K, V, G)]
    expected = (
        definition.c(wide[0], wide[1], **problem.how),
        definition.h(wide[0], wide[2], size=V.shape[2:], **problem.how),
        definition.g(wide[2], wide[1], K.shape, **problem.how),
    )
    results = (np.moveaxis(Z, -1, 0), np.moveaxis(R, -1, 0), dK)
    for actual, wanted in zip(results, expected, strict=True):
        assert error(actual, wanted) < 1e-5


@pytest.mark.parametrize("case", EDGES)
def test_the_edges_equal_the_engine(tmp_path: Path, rng, case: tuple) -> None:
    channels, size, filters, kernel, stride = case
    geometry, N, parts = edge(*case), 3, 5
    assert kernels.suits_edges(geometry, channels, filters)
    K = rng.standard_normal((filters, channels, *kernel), dtype="float32")
    V = rng.standard_normal((N, channels, *size), dtype="float32")
    G = rng.standard_normal((N, filters, *geometry.output), dtype="float32")
    source = kernels.source("edges", **kernels.edges_constants(geometry, channels, filters))
    launches = THREE.format("c") + THREE.format("h") + THREE.format("g")
    add = "void launch_add(int n, int x, const float* p, float* d, int parts)"
    launches += (
        f'extern "C" {add} {{ launch(Index{{n, 1, 1}}, Index{{x, 1, 1}}, add, p, d, parts); }}'
    )
    library = emulated(tmp_path, source, launches)
    taps = np.ascontiguousarray(K.transpose(2, 3, 1, 0))
    V_last, G_last = (np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (V, G))
    Z, R, dK = (np.full_like(a, np.nan) for a in (G_last, V_last, taps))
    partial = np.full((parts, *taps.shape), np.nan, "float32")
    threads = kernels.THREADS
    library.launch_c(blocks(Z.size), threads, 1, *map(pointer, (taps, V_last, Z)), N)
    library.launch_h(blocks(R.size), threads, 1, *map(pointer, (taps, G_last, R)), N)
    library.launch_g(
        parts, filters // kernels.FILTERS, kernel[0], *map(pointer, (G_last, V_last, partial)), N
    )
    library.launch_add(blocks(dK.size), threads, pointer(partial), pointer(dK), parts)
    wide = [a.astype("float64") for a in (K, V, G)]
    how = {"stride": stride, "padding": "same"}
    expected = (
        engine.c(wide[0], wide[1], **how),
        engine.h(wide[0], wide[2], size=size, **how),
        engine.g(wide[2], wide[1], kernel=kernel, **how),
    )
    results = (np.moveaxis(Z, -1, 1), np.moveaxis(R, -1, 1), dK.transpose(3, 2, 0, 1))
    for actual, wanted in zip(results, expected, strict=True):
        assert error(actual, wanted) < 1e-5


def test_what_the_edges_leave_to_others() -> None:
    plain = {"size": (8, 8), "kernel": 3}
    assert kernels.suits_edges(engine.resolve(**plain), 1, 32)
    for channels, filters, other in (
        (5, 32, {}),
        (1, 30, {}),
        (4, 1024, {}),
        (2, 32, {"groups": 2}),
        (1, 32, {"dilation": 2}),
        (1, 32, {"tile": 2}),
        (1, 32, {"size": (8,)}),
    ):
        geometry = engine.resolve(**{**plain, **other})
        assert not kernels.suits_edges(geometry, channels, filters)


@pytest.mark.parametrize("optimizer", [Adam(weight_decay=0.1), AdamW(learning_rate=0.01)])
def test_adam_and_gather_equal_ours(tmp_path: Path, rng, optimizer: Adam) -> None:
    launches = """
extern "C" void launch_adam(float* p, const float* g, float* m, float* v, long long* steps,
    const float* rate, const float* numbers, long long size)
{ launch(Index{2, 1, 1}, Index{64, 1, 1}, adam, p, g, m, v, steps, rate, numbers[0], numbers[1],
         numbers[2], numbers[3], numbers[4], size);
  launch(Index{1, 1, 1}, Index{1, 1, 1}, count, steps); }
extern "C" void launch_gather(const unsigned char* images, const long long* chosen, float* x,
    long long pixels, long long total)
{ launch(Index{1, 1, 1}, Index{64, 1, 1}, gather, images, chosen, x, pixels, total); }
"""
    library = emulated(tmp_path, kernels.source("step"), launches)
    ours = rng.standard_normal(100)
    theirs = ours.astype("float32")
    first, second = np.zeros_like(theirs), np.zeros_like(theirs)
    steps = np.zeros(1, "int64")
    rate = np.array([optimizer.learning_rate], "float32")
    decoupled = isinstance(optimizer, AdamW)
    decays = [0, optimizer.weight_decay] if decoupled else [optimizer.weight_decay, 0]
    numbers = [optimizer.beta1, optimizer.beta2, optimizer.epsilon, *decays]
    fixed = [pointer(a) for a in (first, second, steps, rate, np.array(numbers, "float32"))]
    for _ in range(3):
        gradient = rng.standard_normal(100).astype("float32")
        library.launch_adam(pointer(theirs), pointer(gradient), *fixed, ctypes.c_longlong(100))
        optimizer.update(ours, gradient.astype("float64"))
    assert steps[0] == 3
    assert error(theirs, ours) < 1e-6

    images = rng.integers(0, 256, (5, 10), dtype=np.uint8)
    chosen = np.array([4, 0, 4], "int64")
    x = np.full((3, 10), np.nan, "float32")
    sizes = ctypes.c_longlong(10), ctypes.c_longlong(30)
    library.launch_gather(*map(pointer, (images, chosen, x)), *sizes)
    np.testing.assert_allclose(x, images[chosen] / 255, rtol=1e-6)
