"""The numbers of the CUDA kernels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

import convae
from convae import engine
from convae.engine.gpu import cuda, kernels
from convae.engine.gpu.cuda import KernelBackend
from tests.helpers import by_pytorch, error
from tests.problems import EDGES, Edge, Problem, part_of_examples, problems


def operations(backend: KernelBackend, problem: Problem) -> tuple:
    K, V, G = (backend.xp.asarray(array) for array in problem.arrays("float32"))
    return (
        backend.c(K, V, problem.geometry),
        backend.h(K, G, problem.geometry),
        backend.g(G, V, K.shape, problem.geometry),
    )


@part_of_examples(0.06)
@given(problem=problems())
def test_operations_equal_the_definition(cuda_backend: KernelBackend, problem: Problem) -> None:
    results = operations(cuda_backend, problem)
    for actual, expected in zip(results, problem.by_definition("float32"), strict=True):
        assert actual.shape == expected.shape
        assert actual.dtype == "float32"
        assert error(actual, expected) < 1e-5


def test_a_kernel_is_compiled_once_for_its_constants(cuda_backend: KernelBackend) -> None:
    geometries = [engine.resolve(size=(5,), kernel=kernel) for kernel in (2, 2, 3)]
    constants = [kernels.family_constants(geometry, 1, 1) for geometry in geometries]
    before = cuda_backend.xp.RawModule
    compiled = []

    def compiler(**how: object) -> object:
        compiled.append(how)
        return before(**how)

    xp = type("Library", (), {"RawModule": staticmethod(compiler)})
    for each in constants:
        KernelBackend(xp).kernel("family", "float32", "c", each)
    assert len(compiled) == 2


@pytest.mark.parametrize("case", EDGES, ids=str)
def test_edges_equal_pytorch(cuda_backend: KernelBackend, monkeypatch, rng, case: Edge) -> None:
    xp, geometry, N = cuda_backend.xp, case.geometry, 3
    assert kernels.suits_edges(geometry, case.channels, case.filters)
    K = rng.standard_normal((case.filters, case.channels, *case.kernel), dtype="float32")
    V = rng.standard_normal((N, case.channels, *case.size), dtype="float32")
    G = rng.standard_normal((N, case.filters, *geometry.output), dtype="float32")
    taps = xp.asarray(np.ascontiguousarray(K.transpose(2, 3, 1, 0)))
    V_last, G_last = (xp.asarray(np.ascontiguousarray(np.moveaxis(a, 1, -1))) for a in (V, G))
    monkeypatch.setattr(cuda, "GRADIENT_BLOCKS", 5)  # fewer than there are rows
    Z = np.moveaxis(engine.to_numpy(cuda_backend.edges_c(taps, V_last, geometry)), -1, 1)
    R = np.moveaxis(engine.to_numpy(cuda_backend.edges_h(taps, G_last, geometry)), -1, 1)
    dK = engine.to_numpy(cuda_backend.edges_g(G_last, V_last, geometry)).transpose(3, 2, 0, 1)
    expected = by_pytorch(K, V, G, geometry.stride, geometry.padding)
    for actual, wanted in zip((Z, R, dK), expected, strict=True):
        assert error(actual, wanted) < 1e-5


@pytest.mark.parametrize(
    ("decay", "kind"), [("gradient_decay", convae.Adam), ("parameter_decay", convae.AdamW)]
)
def test_adam_equals_the_optimizer(cuda_backend: KernelBackend, rng, decay: str, kind) -> None:
    """The optimizer follows PyTorch's; see tests/training/test_optimizers.py."""
    xp = cuda_backend.xp
    ours, optimizer = rng.standard_normal(300), kind(learning_rate=0.01, weight_decay=0.1)
    theirs = xp.asarray(ours.astype("float32"))
    on_card = cuda.Adam(cuda_backend, 300, **{decay: 0.1})
    on_card.learning_rate[...] = 0.01
    for _ in range(3):
        gradient = rng.standard_normal(300).astype("float32")
        on_card.update(theirs, xp.asarray(gradient))
        optimizer.update(ours, gradient.astype("float64"))
    assert int(on_card.steps[0]) == 3
    assert error(theirs, ours) < 1e-6


def test_the_first_steps_of_adam_do_not_cancel(cuda_backend: KernelBackend) -> None:
    """1 - beta is 1e-7 here, as large as float32's rounding of beta."""
    xp = cuda_backend.xp
    optimizer = convae.Adam(learning_rate=0.01, beta2=1 - 1e-7)
    ours, theirs = np.ones(1), xp.ones(1, "float32")
    on_card = cuda.Adam(cuda_backend, 1, beta2=1 - 1e-7)
    on_card.learning_rate[...] = 0.01
    on_card.update(theirs, xp.ones(1, "float32"))
    optimizer.update(ours, np.ones(1))
    assert error(theirs, ours) < 1e-6


def test_gather_scales_the_chosen_images(cuda_backend: KernelBackend, rng) -> None:
    xp = cuda_backend.xp
    images = rng.integers(0, 256, (5, 3, 4), dtype=np.uint8)
    chosen = np.array([4, 0, 4], "int64")
    x = engine.to_numpy(cuda_backend.gather(xp.asarray(images), xp.asarray(chosen)))
    assert x.dtype == "float32"
    np.testing.assert_allclose(x, images[chosen] / 255, rtol=1e-6)
