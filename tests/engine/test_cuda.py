"""The numbers of the CUDA kernels: on a GPU where there is one, and everywhere on an emulator."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import convae
from convae import engine
from convae.engine import definition
from convae.engine.gpu.backend import kernels
from tests.conftest import _cupy
from tests.engine import emulator
from tests.engine.problems import Problem, problems
from tests.engine.test_direct import error
from tests.engine.test_kernels import EDGES, edge


@pytest.fixture(params=["emulated", "gpu"])
def cuda(request: pytest.FixtureRequest, monkeypatch) -> ModuleType:
    """`convae.engine.gpu.cuda`, and as its `cupy` the library that its arrays come from."""
    if request.param == "gpu":
        return emulator.backend(monkeypatch, _cupy()).cuda
    monkeypatch.setattr(kernels, "THREADS", 8)  # threads of a processor take long to start
    return emulator.backend(monkeypatch, emulator.cupy()).cuda


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(problem=problems())
def test_the_family_equals_the_definition(cuda: ModuleType, problem: Problem) -> None:
    K, V, G = problem.arrays("float32")
    how = {"kernel": problem.kernel, "tile": problem.tile or 1, **problem.how}
    geometry = engine.resolve(size=V.shape[2:], **how)
    ours = cuda.cupy.asarray(K)
    V_last, G_last = (cuda.cupy.asarray(np.moveaxis(a, 0, -1)) for a in (V, G))
    Z = np.moveaxis(engine.to_numpy(cuda.c(ours, V_last, geometry)), -1, 0)
    R = np.moveaxis(engine.to_numpy(cuda.h(ours, G_last, geometry)), -1, 0)
    dK = engine.to_numpy(cuda.g(G_last, V_last, K.shape, geometry))
    wide = [a.astype("float64") for a in (K, V, G)]
    expected = (
        definition.c(wide[0], wide[1], **problem.how),
        definition.h(wide[0], wide[2], size=V.shape[2:], **problem.how),
        definition.g(wide[2], wide[1], K.shape, **problem.how),
    )
    for actual, wanted in zip((Z, R, dK), expected, strict=True):
        assert error(actual, wanted) < 1e-5


@pytest.mark.parametrize("case", EDGES)
def test_the_edges_equal_the_engine(cuda: ModuleType, rng, case: tuple) -> None:
    channels, size, filters, kernel, stride = case
    geometry, N = edge(*case), 3
    assert kernels.suits_edges(geometry, channels, filters)
    K = rng.standard_normal((filters, channels, *kernel), dtype="float32")
    V = rng.standard_normal((N, channels, *size), dtype="float32")
    G = rng.standard_normal((N, filters, *geometry.output), dtype="float32")
    taps = cuda.cupy.asarray(np.ascontiguousarray(K.transpose(2, 3, 1, 0)))
    V_last, G_last = (
        cuda.cupy.asarray(np.ascontiguousarray(np.moveaxis(a, 1, -1))) for a in (V, G)
    )
    cuda.PARTS = 5  # fewer than there are rows
    Z = np.moveaxis(engine.to_numpy(cuda.edges_c(taps, V_last, geometry)), -1, 1)
    R = np.moveaxis(engine.to_numpy(cuda.edges_h(taps, G_last, geometry)), -1, 1)
    dK = engine.to_numpy(cuda.edges_g(G_last, V_last, geometry)).transpose(3, 2, 0, 1)
    wide = [a.astype("float64") for a in (K, V, G)]
    how = {"stride": stride, "padding": "same"}
    expected = (
        engine.c(wide[0], wide[1], **how),
        engine.h(wide[0], wide[2], size=size, **how),
        engine.g(wide[2], wide[1], kernel=kernel, **how),
    )
    for actual, wanted in zip((Z, R, dK), expected, strict=True):
        assert error(actual, wanted) < 1e-5


@pytest.mark.parametrize("decoupled", [False, True])
def test_adam_equals_ours(cuda: ModuleType, rng, decoupled: bool) -> None:
    decay = "parameter_decay" if decoupled else "gradient_decay"
    kind = convae.AdamW if decoupled else convae.Adam
    ours, optimizer = rng.standard_normal(300), kind(learning_rate=0.01, weight_decay=0.1)
    theirs = cuda.cupy.asarray(ours.astype("float32"))
    on_card = cuda.Adam(300, **{decay: 0.1})
    on_card.learning_rate[...] = 0.01
    for _ in range(3):
        gradient = rng.standard_normal(300).astype("float32")
        on_card.update(theirs, cuda.cupy.asarray(gradient))
        optimizer.update(ours, gradient.astype("float64"))
    assert int(on_card.steps[0]) == 3
    assert error(engine.to_numpy(theirs), ours) < 1e-6


def test_gathering(cuda: ModuleType, rng) -> None:
    images = rng.integers(0, 256, (5, 3, 4), dtype=np.uint8)
    chosen = np.array([4, 0, 4], "int64")
    x = engine.to_numpy(cuda.gather(cuda.cupy.asarray(images), cuda.cupy.asarray(chosen)))
    assert x.dtype == "float32"
    np.testing.assert_allclose(x, images[chosen] / 255, rtol=1e-6)
