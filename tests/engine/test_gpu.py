"""What can be known of the GPU backend without a GPU: its code, run with NumPy in CuPy's place."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from convae import engine
from convae.engine import operations
from tests.engine import emulator
from tests.engine.problems import Problem, problems
from tests.engine.test_direct import error


@pytest.fixture
def gpu(monkeypatch) -> ModuleType:
    return emulator.backend(monkeypatch, np)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(problem=problems())
def test_the_gpu_backend_computes_the_same(gpu: ModuleType, problem: Problem) -> None:
    K, V, G = problem.arrays()
    size, how = V.shape[2:], problem.how
    expected = [
        engine.c(K, V, **how),
        engine.h(K, G, size=size, **how),
        engine.g(G, V, kernel=problem.kernel, tile=problem.tile, **how),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operations, "cpu", gpu)
        actual = [
            engine.c(K, V, **how),
            engine.h(K, G, size=size, **how),
            engine.g(G, V, kernel=problem.kernel, tile=problem.tile, **how),
        ]
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 1e-3), ("bfloat16", 1e-2)])
def test_short_storage_is_computed_in_single(
    gpu: ModuleType, monkeypatch, rng, dtype: str, tolerance: float
) -> None:
    """The sum of many small numbers, which would stop growing if it were stored short, too."""
    pytest.importorskip("ml_dtypes", reason="ml_dtypes, which has bfloat16, is not installed")
    monkeypatch.setattr(operations, "cpu", gpu)
    monkeypatch.setattr(operations, "CPU_DTYPES", operations.GPU_DTYPES)
    K, V, G = (
        rng.random(shape).astype(dtype) for shape in ((8, 16, 3, 3), (40, 16, 9, 9), (40, 8, 5, 5))
    )
    how = {"stride": 2, "padding": "same"}
    wide = [a.astype("float64") for a in (K, V, G)]
    results = engine.c(K, V, **how), engine.h(K, G, size=9, **how), engine.g(G, V, kernel=3, **how)
    monkeypatch.undo()
    expected = (
        engine.c(wide[0], wide[1], **how),
        engine.h(wide[0], wide[2], size=9, **how),
        engine.g(wide[2], wide[1], kernel=3, **how),
    )
    assert [array.dtype for array in results] == [dtype, dtype, "float32"]
    for actual, wanted in zip(results, expected, strict=True):
        assert error(actual, wanted) < tolerance


def cupy_without_a_gpu(count: int | None, built: int, driver: int) -> ModuleType:
    """CuPy as it is where the runtime counts so many cards, or fails to."""

    class CUDARuntimeError(RuntimeError):
        pass

    def count_devices() -> int:
        if count is None:
            raise CUDARuntimeError("cudaErrorInsufficientDriver")
        return count

    module = ModuleType("cupy")
    runtime = SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        getDeviceCount=count_devices,
        runtimeGetVersion=lambda: built,
        driverGetVersion=lambda: driver,
    )
    module.cuda = SimpleNamespace(runtime=runtime)
    return module


@pytest.mark.parametrize(
    ("library", "says"),
    [
        (None, r"CuPy is not installed; pip install 'convae\[cuda13\]'"),
        (cupy_without_a_gpu(None, 13000, 0), "no NVIDIA driver.*nvidia-smi"),
        (cupy_without_a_gpu(None, 13000, 12040), "CUDA 13 and the driver.*12.*cupy-cuda12x"),
        (cupy_without_a_gpu(0, 13000, 13000), r"no usable NVIDIA GPU \(no device\)"),
    ],
)
def test_what_is_missing_for_a_gpu(monkeypatch, library: ModuleType | None, says: str) -> None:
    if library is None:
        monkeypatch.setattr(sys, "path", [])
        monkeypatch.delitem(sys.modules, "cupy", raising=False)
    else:
        monkeypatch.setitem(sys.modules, "cupy", library)
    with pytest.raises(RuntimeError, match=f"device: 'gpu' was asked for, but .*{says}"):
        engine.module_for("gpu")
    assert engine.module_for("auto") is np


def test_a_gpu_that_works_is_taken(monkeypatch) -> None:
    library = cupy_without_a_gpu(1, 13000, 13000)
    monkeypatch.setitem(sys.modules, "cupy", library)
    assert engine.module_for("gpu") is engine.module_for("auto") is library
