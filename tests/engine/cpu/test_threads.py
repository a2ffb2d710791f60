"""Chunks and buffers of the thread pool: nothing of them shows in a result."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from convae.engine import backend_for
from convae.engine.cpu import threads
from tests.helpers import REPOSITORY

BACKEND = backend_for("cpu")
RESULTS = """
import hashlib, sys
import numpy as np
import convae
from convae import engine
from convae.engine.cpu import threads

workers = int(sys.argv[1])
threads.cores = lambda: workers
rng = np.random.default_rng(0)

def random(*shape):
    return rng.standard_normal(shape, dtype="float32")

results = []
for examples, channels, filters, stride in ((224, 3, 5, 2), (200, 2, 4, 2), (128, 64, 64, 1)):
    K, V = random(filters, channels, 3, 3), random(examples, channels, 8, 8)
    G = random(examples, filters, 8 // stride, 8 // stride)
    how = {"stride": stride, "padding": "same"}  # direct, then matrix products, then winograd
    results += [engine.c(K, V, **how), engine.h(K, G, size=8, **how)]
    results.append(engine.g(G, V, kernel=3, **how))
layers = [convae.Layer(3, 3, stride=2, padding="same"), convae.Layer(4, 2, padding=1)]
model = convae.Autoencoder((2, 6, 5), layers)
for examples in (100, 128):
    loss = model.accumulate_gradients(rng.random((examples, 2, 6, 5), dtype="float32"))
    results += [loss, model.flat_gradients.copy()]
print(*(hashlib.sha256(array.tobytes()).hexdigest() for array in results))
"""


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    """c, h and g of every algorithm, and the gradients of a model; twice with five threads."""
    found = [
        subprocess.run(
            [sys.executable, "-c", RESULTS, str(workers)],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for workers in (1, 2, 5, 5)
    ]
    assert len(found[0]) == 13
    assert all(hashes == found[0] for hashes in found)


def test_memory_is_lent_again_only_when_no_view_is_left() -> None:
    def work(chunk: slice) -> bool:
        first = threads.empty((5, 7), np.dtype("float32"))
        view = first.T[2:]
        place = first.ctypes.data
        assert place % threads.ALIGNMENT == 0
        del first
        second = threads.empty((5, 7), np.dtype("float32"))
        shared = np.shares_memory(second, view)
        del view
        third = threads.empty((35,), np.dtype("float32"))
        return not shared and third.ctypes.data == place

    assert BACKEND.map(work, threads.cut(4, 1)) == [True] * 4


def test_results_come_in_the_order_of_the_chunks() -> None:
    chunks = threads.cut(100, 7)
    assert BACKEND.map(lambda chunk: chunk.start, chunks) == list(range(0, 100, 7))
    assert [chunk.stop for chunk in chunks][-2:] == [98, 100]


def test_calls_from_the_pool_stay_in_their_thread() -> None:
    def inner(chunk: slice) -> list[int]:
        import threading

        own = threading.get_ident()
        found = BACKEND.map(lambda _: threading.get_ident(), threads.cut(10, 1))
        return [own, *found]

    for identities in BACKEND.map(inner, threads.cut(4, 1)):
        assert len(set(identities)) == 1


def test_errors_of_a_chunk_come_out() -> None:
    def fail(chunk: slice) -> None:
        raise ZeroDivisionError(chunk.start)

    with pytest.raises(ZeroDivisionError, match="0"):
        BACKEND.map(fail, threads.cut(4, 1))


def test_cores_are_those_of_the_process() -> None:
    assert 1 <= threads.cores() <= (os.cpu_count() or 1)
