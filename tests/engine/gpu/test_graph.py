"""The double-buffered graph."""

from __future__ import annotations

import pytest

from convae.engine.gpu.cuda import KernelBackend
from convae.engine.gpu.graph import DoubleBufferedGraph


class Sums:
    """Adds batches, and one each time, to a total: a function that can be captured."""

    def __init__(self, backend: KernelBackend) -> None:
        self.xp = backend.xp
        self.total = self.xp.zeros(3, "float32")
        self.graph = DoubleBufferedGraph(self.xp, self.add, (3,), [self.total])

    def add(self, x):
        self.total += x
        self.total += 1
        return self.total[0] + 0

    def __call__(self, *x: float) -> None:
        self.graph(self.xp.asarray(x, "float32"))


@pytest.fixture
def sums(cuda_backend: KernelBackend) -> Sums:
    return Sums(cuda_backend)


def test_recording_leaves_the_state_as_it_is(sums: Sums) -> None:
    assert sums.total.tolist() == [0, 0, 0]


def test_every_launch_takes_its_own_batch(sums: Sums) -> None:
    results = []
    for n in (5, 7, 100):
        sums(n, 2 * n, 3 * n)
        results.append(float(sums.graph.result()))
    assert results == [5 + 1, 12 + 2, 112 + 3]
    assert sums.total.tolist() == [112 + 3, 224 + 3, 336 + 3]


def test_a_batch_may_be_changed_after_the_call(sums: Sums) -> None:
    x = sums.xp.full(3, 5, "float32")
    sums.graph(x)
    x[...] = 1000
    sums.graph(x)
    assert float(sums.graph.result()) == 5 + 1 + 1000 + 1


def test_work_between_launches_is_seen_by_the_next(sums: Sums) -> None:
    sums(5, 5, 5)
    with sums.graph.between_launches():
        sums.total[...] = 0
    sums(7, 7, 7)
    assert float(sums.graph.result()) == 7 + 1


def test_another_shape_is_refused(sums: Sums) -> None:
    with pytest.raises(ValueError, match=r"x: shape \(2,\).*\(3,\)"):
        sums(1, 2)
