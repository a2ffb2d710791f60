"""Forked children, threads of the caller, and what they leave behind."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info

import convae
from convae import engine

FORK = """
import multiprocessing, os, sys
import numpy as np
from convae import engine

rng = np.random.default_rng(0)
K = rng.standard_normal((16, 3, 5, 5), dtype="float32")
V = rng.standard_normal((256, 3, 32, 32), dtype="float32")
expected = engine.c(K, V, stride=2, padding="same")
child = os.fork()
if child == 0:
    same = np.array_equal(expected, engine.c(K, V, stride=2, padding="same"))
    os._exit(0 if same else 3)
assert os.waitpid(child, 0)[1] == 0

def total(_):
    return float(engine.c(K, V, stride=2, padding="same").sum())

with multiprocessing.get_context("fork").Pool(2) as pool:
    assert len(set(pool.map(total, range(4)))) == 1
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork on this system")
def test_forked_children_compute() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], check=True, timeout=60)


def blas_threads() -> list[int]:
    return [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]


def run_all(functions: list) -> None:
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_blas_has_its_threads_back_after_calls_from_several_threads(rng) -> None:
    K = rng.standard_normal((16, 3, 5, 5), dtype="float32")
    V = rng.standard_normal((50, 3, 32, 32), dtype="float32")
    before = blas_threads()
    run_all([lambda: [engine.c(K, V, stride=2, padding="same") for _ in range(20)]] * 4)
    assert blas_threads() == before


def test_threads_that_share_a_model_get_their_own_gradients() -> None:
    model = convae.Autoencoder((1, 8, 8), [convae.Layer(4, 3, padding="same")])
    batches = [np.random.default_rng(n).random((256, 1, 8, 8), dtype="float32") for n in range(6)]
    expected = [model.loss_and_gradients(x)[1]["0.kernel"] for x in batches]
    found: dict[int, np.ndarray] = {}

    def compute(n: int) -> None:
        for _ in range(20):
            found[n] = model.loss_and_gradients(batches[n])[1]["0.kernel"]

    run_all([lambda n=n: compute(n) for n in range(6)])
    for n, gradient in enumerate(expected):
        assert (found[n] == gradient).all()


@pytest.mark.parametrize("count", [0, -1, 1.5, True])
def test_impossible_numbers_of_threads_are_refused(count: object) -> None:
    with pytest.raises(ValueError, match=r"count: .* integer of at least 1"):
        engine.set_num_threads(count)


def test_the_environment_bounds_the_threads() -> None:
    script = (
        "import numpy as np\nfrom convae import engine\nimport threading\n"
        "engine.c(np.ones((8, 3, 5, 5), 'f4'), np.ones((256, 3, 32, 32), 'f4'))\n"
        "print(sum(t.name.startswith('convae') for t in threading.enumerate()))"
    )
    environment = {**__import__("os").environ, "OMP_NUM_THREADS": "1"}
    output = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )
    assert output.stdout.strip() == "0"  # beside the caller
