"""Which library arrays belong to, and what is said where a GPU is missing."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from convae import engine


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
def test_error_says_what_is_missing_for_a_gpu(
    monkeypatch, library: ModuleType | None, says: str
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", library)
    with pytest.raises(RuntimeError, match=f"device: 'gpu' was asked for, but .*{says}"):
        engine.backend_for("gpu")
    assert engine.backend_for("auto") is engine.backend_for("cpu")


def test_error_gives_the_reason_why_cupy_cannot_be_imported(monkeypatch, tmp_path) -> None:
    (tmp_path / "cupy.py").write_text("raise ImportError('libnvrtc.so.13: cannot open')")
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert "cannot be imported (libnvrtc.so.13: cannot open)" in engine.missing_gpu()


def test_nothing_is_missing_where_the_runtime_counts_a_card(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", cupy_without_a_gpu(1, 13000, 13000))
    assert engine.missing_gpu() == ""


def test_arrays_know_their_library(xp: ModuleType) -> None:
    array = xp.arange(3)
    assert engine.array_module(array, array) is xp
    on_host = engine.to_numpy(array)
    assert type(on_host) is np.ndarray
    assert on_host.tolist() == [0, 1, 2]
    assert (on_host is array) == (xp is np)


def test_mixed_devices_are_refused() -> None:
    class Foreign:
        __module__ = "cupy._core.core"

    with pytest.raises(TypeError, match="K and V: NumPy and CuPy arrays are mixed"):
        engine.array_module(np.zeros(1), Foreign(), names="K and V")


def test_lists_are_refused() -> None:
    with pytest.raises(TypeError, match=r"x: got builtins\.list.*numpy\.asarray"):
        engine.array_module([1.0], names="x")
