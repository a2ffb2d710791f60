"""Problems divided into tasks: the same results, in bounded memory, with bits of their own."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given

from convae import engine
from convae.engine.cpu import unfolded
from tests.problems import Problem, problems


@pytest.fixture
def tiny_tasks(monkeypatch) -> None:
    """Let every problem be divided into strips of few rows."""
    monkeypatch.setattr(unfolded, "COLUMNS_BYTES", 600)
    monkeypatch.setattr(unfolded, "WORTH_DIVIDING", 1)


@given(problem=problems())
def test_tasks_add_up_to_the_whole(problem: Problem) -> None:
    K, V, G = problem.arrays()
    how = {"kernel": problem.kernel, "tile": problem.tile or 1, **problem.how}
    geometry = engine.resolve(size=V.shape[2:], **how)
    V_last, G_last = np.moveaxis(V, 0, -1), np.moveaxis(G, 0, -1)
    whole = engine.ArrayBackend()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unfolded, "COLUMNS_BYTES", 600)
        patch.setattr(unfolded, "WORTH_DIVIDING", 1)
        Z = np.moveaxis(unfolded.c(K, V_last, geometry), -1, 0)
        R = np.moveaxis(unfolded.h(K, G_last, geometry), -1, 0)
        dK = unfolded.g(G_last, V_last, K.shape, geometry)
    expected = whole.c(K, V, geometry), whole.h(K, G, geometry), whole.g(G, V, K.shape, geometry)
    for actual, wanted in zip((Z, R, dK), expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-11, atol=1e-11)


def test_local_kernels_are_divided_too(tiny_tasks, rng) -> None:
    geometry = engine.resolve(size=(9, 5), kernel=3, padding="same", tile=(9, 5))
    assert len(unfolded.tasks(geometry, 2, 4, 3, 8)) > 3
    K, V = rng.standard_normal((4, 9, 5, 2, 3, 3)), rng.standard_normal((3, 2, 9, 5))
    Z = np.moveaxis(unfolded.c(K, np.moveaxis(V, 0, -1), geometry), -1, 0)
    np.testing.assert_allclose(Z, engine.ArrayBackend().c(K, V, geometry), rtol=1e-12)


PEAK = """
import numpy as np
from convae import engine

def memory(kind):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(kind)) / 1024

rng = np.random.default_rng(0)
K = rng.standard_normal((32, 32, 5, 5), dtype="float32")
V = rng.standard_normal((4, 32, 512, 512), dtype="float32")
engine.c(K[:, :, :1, :1], V[:, :, :8, :8])
before = memory("VmRSS")
Z = engine.c(K, V, padding="same")
peak = memory("VmHWM") - before
engine.free_memory()
print(peak, memory("VmRSS") - before - Z.nbytes / 2**20)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process as Linux has it")
def test_large_pictures_take_bounded_memory() -> None:
    output = subprocess.run(
        [sys.executable, "-c", PEAK], capture_output=True, text=True, check=True
    )
    peak, kept = map(float, output.stdout.split())
    assert peak < 600, "MiB; 128 of them are the result"
    assert kept < 64


@pytest.mark.parametrize("examples", [1, 3, 20, 30, 31])
def test_bits_do_not_depend_on_the_number_of_threads(rng, examples: int) -> None:
    K = rng.standard_normal((48, 32, 3, 3), dtype="float32")
    V = rng.standard_normal((examples, 32, 24, 24), dtype="float32")
    G = rng.standard_normal((examples, 48, 24, 24), dtype="float32")

    def all_three():
        return (
            engine.c(K, V, padding="same"),
            engine.h(K, G, padding="same"),
            engine.g(G, V, padding="same", kernel=3),
        )

    found = []
    try:
        for threads in (1, 2, 5):
            engine.set_num_threads(threads)
            found.append(all_three())
    finally:
        engine.set_num_threads(2)
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert (a == b).all()


def test_what_no_output_reads_does_not_reach_a_tiled_gradient() -> None:
    """With tile 2 and 3 outputs, the second tile is filled up beyond the last output."""
    V, G = np.ones((2, 1, 7)), np.ones((2, 1, 3))
    V[..., 6] = np.nan  # outputs at 0, 2, 4 read 0 to 5
    dK = engine.g(G, V[..., :], stride=2, kernel=2, tile=2, padding=0)
    assert np.isfinite(dK).all()
    assert (dK[0, :, 0, 0] == [4, 2]).all()
