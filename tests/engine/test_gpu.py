"""What can be known of the GPU backend without a GPU: its code, run with NumPy in CuPy's place."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from convae import engine
from convae.engine import operations
from tests.engine.problems import Problem, problems


@pytest.fixture
def gpu(monkeypatch) -> ModuleType:
    monkeypatch.setitem(sys.modules, "cupy", np)
    monkeypatch.delitem(sys.modules, "convae.engine.gpu", raising=False)
    module = importlib.import_module("convae.engine.gpu")
    monkeypatch.delitem(sys.modules, "convae.engine.gpu")
    return module


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
