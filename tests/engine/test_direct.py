"""The compiled ways of c, h and g: whole blocks of examples, all counts of rows, and their bits."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convae import engine
from convae.engine import definition, gemm
from convae.engine.cpu.backend import backend as cpu
from convae.engine.cpu.backend import direct as direct_way
from convae.engine.cpu.backend import threads as parallel
from tests.conftest import REPOSITORY
from tests.engine.test_operations import CONVOLUTIONS, TOLERANCE


def error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Relative error in the norm."""
    difference = np.linalg.norm(actual.astype("float64") - expected)
    return float(difference / max(np.linalg.norm(expected), 1e-30))


def by_pytorch(K: np.ndarray, V: np.ndarray, G: np.ndarray, stride, padding) -> list[np.ndarray]:
    """c, h and g in float64."""
    K_t, V_t = (torch.tensor(a.astype("float64"), requires_grad=True) for a in (K, V))
    sides = [width for pair in reversed(padding) for width in pair]
    Z_t = CONVOLUTIONS[V.ndim - 2][0](torch.nn.functional.pad(V_t, sides), K_t, stride=stride)
    Z_t.backward(torch.tensor(G.astype("float64")))
    return [Z_t.detach().numpy(), V_t.grad.numpy(), K_t.grad.numpy()]


@st.composite
def cases(draw: st.DrawFn):
    """Shapes of K, V and G, stride and padding, dtype and seed."""
    axes = draw(st.integers(1, 3))
    size = [draw(st.integers(1, (20, 9, 5)[axes - 1])) for _ in range(axes)]
    padding = tuple((draw(st.integers(0, 4)), draw(st.integers(0, 4))) for _ in range(axes))
    largest = [min(6, n + sum(sides)) for n, sides in zip(size, padding, strict=True)]
    kernel = [draw(st.integers(1, n)) for n in largest]
    stride = tuple(draw(st.integers(1, 3)) for _ in range(axes))
    channels, filters = draw(st.integers(1, 19)), draw(st.integers(1, 40))
    examples = draw(st.sampled_from([32, 64, 160]))
    output = engine.resolve(size=size, kernel=kernel, stride=stride, padding=padding).output
    shapes = (
        (filters, channels, *kernel),
        (examples, channels, *size),
        (examples, filters, *output),
    )
    dtype = draw(st.sampled_from(["float32", "float64"]))
    return shapes, stride, padding, dtype, draw(st.integers(0, 2**32 - 1))


@settings(max_examples=100)
@given(case=cases())
def test_operations_equal_pytorch(case) -> None:
    shapes, stride, padding, dtype, seed = case
    rng = np.random.default_rng(seed)
    K, V, G = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    how = {"stride": stride, "padding": padding}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("c", "h", "g"):
            patch.delattr(gemm, name)  # whoever calls them fails
        Z = engine.c(K, V, **how)
        R = engine.h(K, G, size=V.shape[2:], **how)
        dK = engine.g(G, V, kernel=K.shape[2:], **how)
    for actual, expected in zip((Z, R, dK), by_pytorch(K, V, G, stride, padding), strict=True):
        assert actual.shape == expected.shape
        assert actual.dtype == dtype
        assert error(actual, expected) < TOLERANCE[dtype]


WORKLOADS = [(1, 28, 32, 5, 2), (32, 14, 64, 3, 2), (3, 32, 64, 5, 2), (64, 16, 128, 3, 2)]


@pytest.mark.parametrize(("channels", "side", "filters", "kernel", "stride"), WORKLOADS)
def test_single_precision_is_as_good_as_can_be(
    rng, channels: int, side: int, filters: int, kernel: int, stride: int
) -> None:
    K = rng.standard_normal((filters, channels, kernel, kernel), dtype="float32")
    V = rng.standard_normal((32, channels, side, side), dtype="float32")
    reach = kernel - 1
    padding = ((reach // 2, reach - reach // 2),) * 2
    how = {"stride": (stride, stride), "padding": padding}
    Z = engine.c(K, V, **how)
    results = (Z, engine.h(K, Z, size=side, **how), engine.g(Z, V, kernel=kernel, **how))
    for actual, expected in zip(results, by_pytorch(K, V, Z, **how), strict=True):
        assert error(actual, expected) < 1e-6


def test_which_way_a_problem_goes() -> None:
    """Whole blocks of examples of ordinary kernels are computed in place, the rest as matrices."""
    plain = {"size": (8, 8), "kernel": 3, "stride": 2, "padding": "same"}
    direct = {
        (32, 4): plain,
        (16, 8): plain,
        (96, 4): {**plain, "tile": 1},
    }
    otherwise = {
        (16, 4): plain,
        (33, 4): plain,
        (32, 4): {**plain, "groups": 2},
        (64, 4): {**plain, "dilation": 2},
        (96, 4): {**plain, "tile": (1, 2)},
    }
    for operation in "chg":
        for block, arguments in direct.items():
            way = cpu.compiled_way(operation, engine.resolve(**arguments), 1, 32, *block)
            assert way is getattr(direct_way, operation)
        for block, arguments in otherwise.items():
            assert cpu.compiled_way(operation, engine.resolve(**arguments), 64, 64, *block) is None


def test_a_position_that_meets_padding_alone_is_zero() -> None:
    K, V = np.ones((3, 2, 2, 2)), np.ones((16, 2, 1, 1))
    how = {"stride": (1, 1), "padding": ((3, 3), (3, 3)), "dilation": (1, 1)}
    Z = engine.c(K, V, **how)
    assert (definition.c(K, V, **how) == Z).all()


@pytest.mark.parametrize("operation", ["c", "h", "g"])
def test_bits_do_not_depend_on_the_number_of_threads(monkeypatch, rng, operation: str) -> None:
    K = rng.standard_normal((5, 3, 3, 3), dtype="float32")
    V = rng.standard_normal((224, 3, 7, 7), dtype="float32")
    G = rng.standard_normal((224, 5, 4, 4), dtype="float32")
    how = {"stride": 2, "padding": "same"}
    call = {
        "c": lambda: engine.c(K, V, **how),
        "h": lambda: engine.h(K, G, size=7, **how),
        "g": lambda: engine.g(G, V, kernel=3, **how),
    }[operation]
    results = set()
    for workers in (1, 2, 5, 5):
        pool = ThreadPoolExecutor(workers)
        monkeypatch.setattr(parallel, "_pool", lambda pool=pool: pool)
        results.add(call().tobytes())
        pool.shutdown()
    assert len(results) == 1


STEPS = """
import hashlib, sys, convae, numpy as np
layers = [convae.Layer(8, 5, stride=2, padding="same"), convae.Layer(12, 3, activation="tanh")]
step = convae.TrainingStep(convae.Autoencoder((2, 9, 8), layers), convae.Adam(1e-2))
x = np.random.default_rng(0).random((96, 2, 9, 8), dtype="float32")
for _ in range(3):
    step(x)
print(hashlib.sha256(step.model.flat_parameters.tobytes()).hexdigest())
"""


def test_bits_are_the_same_with_and_without_a_cache_on_disk(tmp_path) -> None:
    """Also where neither the package's folder nor the user's can be written."""
    package = tmp_path / "locked" / "convae"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "convae", package, ignore=ignored)
    (package / "engine" / "__pycache__").write_text("a file where the folder would be")
    nowhere = {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null"}
    runs = [(REPOSITORY, {}), (REPOSITORY, {}), (package.parent, nowhere)]
    found = [
        subprocess.run(
            [sys.executable, "-W", "error", "-c", STEPS],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder), **environment},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for folder, environment in runs
    ]
    assert len(set(found)) == 1


def test_memory_is_lent_again_only_when_nothing_looks_at_it() -> None:
    def work(part: slice) -> bool:
        first = parallel.empty((5, 7), np.dtype("float32"))
        view = first.T[2:]
        where = first.ctypes.data
        assert where % parallel.ALIGNMENT == 0
        del first
        second = parallel.empty((5, 7), np.dtype("float32"))
        shared = np.shares_memory(second, view)
        del view
        third = parallel.empty((35,), np.dtype("float32"))
        return not shared and third.ctypes.data == where

    assert parallel.over(work, parallel.cut(4, 1)) == [True] * 4
