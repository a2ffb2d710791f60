"""Chunks and buffers of the thread pool: nothing of them shows in a result."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterator

import numpy as np
import pytest

import convae
from convae import engine
from convae.engine.cpu import buffers, products, threads
from tests.helpers import STACKS

BACKEND = engine.backend_for("cpu")


@pytest.fixture
def any_number_of_threads() -> Iterator[None]:
    yield
    engine.set_num_threads(threads.cores())


def lengths(examples: int, work: int, numbers: int, *more) -> list[int]:
    chunks = threads.divide(examples, work, numbers, *more)
    return [chunk.stop - chunk.start for chunk in chunks]


def test_chunks_keep_threads_busy_equally_long() -> None:
    large, small = (10**9, 10**6), (10**6, 10**4)  # work and numbers of an example
    assert lengths(8, *large, 0, True) == [1] * 8
    assert lengths(17, *large, 0, True) == [17]  # 24 turns of 8 threads
    assert lengths(3, *large, 0, True) == [3]
    assert lengths(3, *large) == [1, 1, 1]  # the interpreter would do it on its own
    assert lengths(100, *small, 0, True) == [25] * 4
    assert lengths(60, *small, 0, True) == lengths(60, *small) == [60]  # too small to be divided
    assert lengths(64, *large, 10**6, True) == [3] * 16 + [2] * 8  # read and write its gradients


def test_chunks_fit_into_a_cache() -> None:
    for examples in (256, 300, 1000):
        found = lengths(examples, 6 * 10**6, 20_000, 20_000, True)
        assert 8 <= min(found) <= max(found) <= 20
        assert len(found) % 8 == 0
        assert found == sorted(found, reverse=True)
        assert max(lengths(examples, 6 * 10**6, 20_000)) > 20


@pytest.mark.parametrize("channels", [3, 64])
@pytest.mark.usefixtures("any_number_of_threads")
def test_memory_that_is_freed_meanwhile_is_not_written_to(
    rng, monkeypatch: pytest.MonkeyPatch, channels: int
) -> None:
    K = rng.standard_normal((40, channels, 3, 3), dtype="float32")
    G = rng.standard_normal((2, 40, 20, 20), dtype="float32")
    engine.set_num_threads(1)
    expected = engine.h(K, G, padding="same")
    sizes = [kept.nbytes for kept, _ in buffers._kept().buffers.values()]
    work, others = products.work, []

    def freeing(*arguments):
        engine.free_memory()
        others.extend(np.full(size + buffers.ALIGNMENT, 7, np.uint8) for size in sizes * 4)
        return work(*arguments)

    monkeypatch.setattr(products, "work", freeing)
    assert (engine.h(K, G, padding="same") == expected).all()
    assert all((other == 7).all() for other in others)


@pytest.mark.parametrize("examples", [100, 128])
@pytest.mark.usefixtures("any_number_of_threads")
def test_gradients_do_not_depend_on_the_number_of_threads(rng, examples: int) -> None:
    x = rng.random((examples, 2, 6, 5), dtype="float32")
    model = convae.Autoencoder((2, 6, 5), STACKS[2])
    results = set()
    for workers in (1, 2, 3, 3):
        engine.set_num_threads(workers)
        loss = float(model.accumulate_gradients(x))
        results.add((loss, model.flat_gradients.tobytes()))
    assert len(results) == 1


@pytest.mark.usefixtures("any_number_of_threads")
def test_the_loss_of_a_picture_does_not_depend_on_the_number_of_threads(rng) -> None:
    """Whose products several threads share."""
    x = rng.random((1, 1, 160, 150))
    layers = [convae.Layer(40, 5, stride=2, padding="same")]
    losses = set()
    for workers in (1, 2, 7, 12):
        engine.set_num_threads(workers)
        model = convae.Autoencoder((1, 160, 150), layers, dtype="float64")
        losses.add(float(model.accumulate_gradients(x)))
    assert len(losses) == 1


def test_a_buffer_is_the_same_at_the_next_call() -> None:
    def work(chunk: slice) -> bool:
        first = buffers.scratch("test", (5, 7), np.dtype("float32"))
        assert first.ctypes.data % buffers.ALIGNMENT == 0
        return np.shares_memory(first, buffers.scratch("test", (35,), np.dtype("float32")))

    assert BACKEND.map(work, threads.cut(4, 1)) == [True] * 4


def test_results_come_in_the_order_of_the_chunks() -> None:
    chunks = threads.cut(100, 7)
    assert BACKEND.map(lambda chunk: chunk.start, chunks) == list(range(0, 100, 7))
    assert [chunk.stop for chunk in chunks][-2:] == [98, 100]


def test_calls_from_the_pool_stay_in_their_thread() -> None:
    def inner(chunk: slice) -> list[int]:
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


@pytest.mark.usefixtures("any_number_of_threads")
def test_after_an_error_no_chunk_is_begun_and_the_caller_is_free() -> None:
    begun: list[int] = []

    def fail(chunk: slice) -> None:
        begun.append(chunk.start)
        raise KeyboardInterrupt

    engine.set_num_threads(3)
    with pytest.raises(KeyboardInterrupt):
        BACKEND.map(fail, threads.cut(1000, 1))
    assert len(begun) <= 3
    assert not threads.in_pool()
    assert BACKEND.map(lambda chunk: chunk.start, threads.cut(5, 1)) == [0, 1, 2, 3, 4]


@pytest.mark.usefixtures("any_number_of_threads")
def test_the_caller_works_too() -> None:
    together = threading.Barrier(3, timeout=20)

    def work(chunk: slice) -> int:
        together.wait()
        return threading.get_ident()

    engine.set_num_threads(3)
    found = BACKEND.map(work, threads.cut(3, 1))
    assert len(set(found)) == 3
    assert threading.get_ident() in found


@pytest.mark.usefixtures("any_number_of_threads")
@pytest.mark.parametrize("operation", "chg")
def test_operations_do_not_depend_on_the_number_of_threads(rng, operation: str) -> None:
    arrays = {"K": (8, 3, 3, 3), "V": (40, 3, 32, 31), "G": (40, 8, 32, 31)}
    K, V, G = (rng.standard_normal(shape, dtype="float32") for shape in arrays.values())
    use = {
        "c": lambda: engine.c(K, V, padding="same"),
        "h": lambda: engine.h(K, G, size=(32, 31), padding="same"),
        "g": lambda: engine.g(G, V, kernel=3, padding="same"),
    }[operation]
    results = set()
    for workers in (1, 2, 3, 5):
        engine.set_num_threads(workers)
        results.add(use().tobytes())
    assert len(results) == 1


@pytest.mark.usefixtures("any_number_of_threads")
def test_shared_work_is_done_when_the_caller_returns(rng) -> None:
    """Of which helpers that come late find nothing left, though the next call has begun."""
    K, V = rng.standard_normal((4, 2, 3, 3), "f4"), rng.standard_normal((40, 2, 32, 31), "f4")
    engine.set_num_threads(1)
    expected = engine.c(K, V)
    engine.set_num_threads(6)
    for _ in range(300):
        assert (engine.c(K, V) == expected).all()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system has no affinities")
@pytest.mark.usefixtures("any_number_of_threads")
def test_the_cores_of_callers_stay_theirs() -> None:
    """Helpers are moved; who calls may be on all cores as before, in whatever thread."""
    before = os.sched_getaffinity(0)
    engine.set_num_threads(3)

    def call() -> None:
        for _ in range(20):
            BACKEND.map(lambda chunk: None, threads.cut(8, 1))
        assert os.sched_getaffinity(0) == before

    call()
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


@pytest.mark.usefixtures("any_number_of_threads")
def test_helpers_survive_a_shortage_of_memory(rng, monkeypatch) -> None:
    """Who calls does what is left, and has them again the next time."""
    from convae.engine.cpu import calls

    K, V = rng.standard_normal((4, 2, 3, 3), "f4"), rng.standard_normal((40, 2, 32, 31), "f4")
    engine.set_num_threads(1)
    expected = engine.c(K, V)
    engine.set_num_threads(3)
    short, scratch = threading.Event(), calls.scratch

    def scarce(*arguments) -> np.ndarray:
        if threads.in_pool():
            short.set()
            raise MemoryError
        return scratch(*arguments)

    monkeypatch.setattr(calls, "scratch", scarce)
    for _ in range(20):
        assert (engine.c(K, V) == expected).all()
    assert short.wait(20)
    monkeypatch.undo()
    together = threading.Barrier(3, timeout=20)
    BACKEND.map(lambda _: together.wait(), threads.cut(3, 1))
    assert (engine.c(K, V) == expected).all()


def test_a_late_helper_keeps_no_result(rng) -> None:
    """What a call has read and written is freed at once."""
    V = BACKEND.arrange(rng.standard_normal((40, 2, 32, 31), "f4"))
    K = rng.standard_normal((4, 2, 3, 3), "f4")
    for _ in range(50):
        result = engine.c(K, V)
        memory = weakref.ref(result.base if result.base is not None else result)
        del result
        assert memory() is None


@pytest.mark.usefixtures("any_number_of_threads")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_callers_in_several_threads_do_not_disturb_each_other(rng, dtype: str) -> None:
    """Of which one has the helpers; sizes and types differ, so that helpers have to adapt."""
    problems = []
    engine.set_num_threads(1)
    for number, (side, kind) in enumerate([(32, dtype), (9, "float32"), (40, "float64")]):
        K = rng.standard_normal((4, 2, 3, 3)).astype(kind)
        V = rng.standard_normal((40, 2, side, side + number)).astype(kind)
        problems.append((K, V, engine.c(K, V)))
    engine.set_num_threads(4)
    wrong: list[int] = []

    def call(number: int) -> None:
        K, V, expected = problems[number]
        for _ in range(100):
            if not (engine.c(K, V) == expected).all():
                wrong.append(number)

    callers = [threading.Thread(target=call, args=(number,)) for number in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


@pytest.mark.usefixtures("any_number_of_threads")
def test_helpers_end_with_their_number() -> None:
    def count() -> int:
        return sum(thread.name == "convae" for thread in threading.enumerate())

    for workers in (5, 2, 1, 3):
        engine.set_num_threads(workers)
        BACKEND.map(lambda chunk: None, threads.cut(8, 1))
        end = time.monotonic() + 20
        while count() != workers - 1 and time.monotonic() < end:
            time.sleep(0.01)
        assert count() == workers - 1


def test_cores_are_those_of_the_process() -> None:
    assert 1 <= threads.cores() <= (os.cpu_count() or 1)
