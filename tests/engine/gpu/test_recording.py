"""Programs recorded as CUDA graphs."""

from __future__ import annotations

import numpy as np
import pytest

import convae
from convae.engine.program import Executable, Memory, Portable, Program
from convae.models.activations import IDENTITY

pytestmark = pytest.mark.gpu


def program(with_product: bool = False) -> Program:
    """Adds ``K^2 / 2`` to J and K to dK; perhaps with a product that cannot be recorded between."""
    program = Program()
    for name, shape, dtype in (
        ("K", (1, 1, 2, 2), "float32"),
        ("V", (3, 1, 1, 2), "float32"),
        ("dK", (1, 1, 2, 2), "float32"),
        ("J", (), "float64"),
    ):
        program.array(name, shape, dtype, given=True)
    program.array("squares", (1, 1, 2, 2), "float32")
    program.array("Z", (3, 1, 1, 2), "float32")
    program.do("square", K="K", write={"squares": "squares"})
    if with_product:
        geometry = convae.engine.resolve(size=(1, 1), kernel=1)
        settings = {"geometry": geometry, "activation": IDENTITY}
        program.do("c", K="squares", V="V", write={"Z": "Z"}, settings=settings)
    program.do("kernel_decay", K="K", update={"dK": "dK", "J": "J"}, settings={"strength": 1.0})
    return program


def recorded(cupy, with_product: bool = False):
    from convae.engine.gpu.recording import Recorded

    given = {
        "K": cupy.arange(4, dtype="float32").reshape(1, 1, 2, 2),
        "V": cupy.ones((3, 1, 1, 2), "float32"),
        "dK": cupy.zeros((1, 1, 2, 2), "float32"),
        "J": cupy.zeros((), "float64"),
    }
    portable = Portable(convae.engine.backend_for("gpu"))
    bound = Executable(program(with_product), given, lambda problem: portable, Memory(cupy))
    return Recorded(bound), given


def test_every_run_computes_once(cupy) -> None:
    """The first does so call by call; recording the second computes nothing."""
    run, given = recorded(cupy)
    for count in range(1, 5):
        run()
        assert float(given["J"]) == count * (0 + 1 + 4 + 9) / 2
        assert given["dK"].reshape(-1).tolist() == [0, count, 2 * count, 3 * count]
    assert len(run.graphs) == 1


def test_what_cannot_be_recorded_lies_between_graphs(cupy) -> None:
    run, given = recorded(cupy, with_product=True)
    for _ in range(3):
        run()
    assert len(run.graphs) == 2
    Z = run.executable.arrays["Z"].reshape(3, 2)
    np.testing.assert_allclose(Z.get(), [[0 + 4, 1 + 9]] * 3)
    assert float(given["J"]) == 3 * 7


def test_what_a_card_does_not_record_is_called(cupy, monkeypatch, caplog) -> None:
    """A planted fault: a product of cuBLAS that is said to be recordable."""
    monkeypatch.setattr(Portable, "records", lambda self, problem: True)
    run, given = recorded(cupy, with_product=True)
    for _ in range(3):
        run()
    assert run.graphs == []
    assert float(given["J"]) == 3 * 7
    assert "3 nodes cannot be recorded, and are called" in caplog.text


def test_recorded_array_code_keeps_its_memory(cupy) -> None:
    """What it uses in between is not given to anybody else."""
    run, given = recorded(cupy)
    for _ in range(2):
        run()
    cupy.get_default_memory_pool().free_all_blocks()
    others = [cupy.full(1000, 7.0) for _ in range(50)]
    for _ in range(2):
        run()
    assert float(given["J"]) == 4 * 7
    assert all((other == 7).all() for other in others)


def test_graphs_follow_the_callers_stream(cupy) -> None:
    """Work before and behind a launch keeps its place, also on a stream of the caller's own."""
    run, given = recorded(cupy)
    for _ in range(2):
        run()
    for stream in (cupy.cuda.Stream.null, cupy.cuda.Stream(non_blocking=True)):
        cupy.cuda.Device().synchronize()
        with stream:
            totals = cupy.zeros((), "float64")
            for K in (1, 2, 3):
                given["K"][...] = K
                given["J"][...] = 0
                run()
                totals += given["J"]
            assert float(totals) == 4 * (1 + 4 + 9) / 2
