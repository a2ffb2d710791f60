"""The numbers of every way, and what certification makes of wrong ones."""

from __future__ import annotations

import os
from types import ModuleType

import numpy as np
import pytest

import convae
from convae import Layer, engine
from convae.engine.gpu import kernels
from convae.engine.gpu.kernels import edges
from convae.engine.program import Problem
from convae.engine.updates import Moments, Momentum
from convae.models.activations import ACTIVATIONS, RELU
from convae.models.gradient_program import GradientProgram
from convae.models.penalties import NONE
from tests.engine.gpu.test_kernels import DEEP, EDGES, LOCAL, PLAIN, shorter

pytestmark = pytest.mark.gpu

MODELS = {
    "two axes": ((3, 9, 7), [Layer(70, 3, stride=2, padding="same"), Layer(5, 2)], {}),
    "a code without positions": ((1, 8, 8), [*PLAIN, Layer(3, "input", activation="identity")], {}),
    "local, of logits": ((2, 14), LOCAL, {"loss": "bce"}),
    "three axes": ((3, 7, 8, 7), DEEP, {"output_activation": "identity"}),
    "uneven": (
        (2, 9, 12),
        [Layer(4, (5, 2), stride=(2, 1), padding=((2, 1), (0, 3)), activation="tanh")],
        {},
    ),
}


@pytest.fixture(scope="module")
def certification(cupy: ModuleType) -> ModuleType:
    from convae.engine.gpu import certification

    return certification


def problems_of(name: str, examples: int = 5) -> list[Problem]:
    shape, layers, other = MODELS[name]
    program = GradientProgram(convae.Autoencoder(shape, layers, **other), examples, NONE, True)
    return list(program.program.problems())


@pytest.mark.parametrize("name", MODELS)
def test_ways_are_certified_for_a_models_problems(name: str, certification, cupy) -> None:
    from convae.engine.gpu import ways

    tried = 0
    for problem in problems_of(name):
        for way in (ways.Tiles(), ways.Narrow(), ways.Passes()):
            if way.suits(problem):
                assert certification.certify(way, problem, 1e-5, cupy) < 5e-6
                tried += 1
    assert tried > 5


@pytest.mark.parametrize("dtype", kernels.STORAGE)
@pytest.mark.parametrize("name", ["two axes", "local, of logits"])
def test_tensor_cores_give_the_same_sums(name: str, dtype: str, certification, cupy) -> None:
    """Where lanes meet; the pretend GPU rounds nothing to TF32."""
    from convae.engine.gpu import ways

    for problem in problems_of(name):
        if kernels.suits_products(problem):
            if dtype != "float32":
                problem = shorter(problem, dtype)
            limit = certification.tolerance(problem, dtype == "float32")
            assert certification.certify(ways.Tiles(True), problem, limit, cupy) <= limit


@pytest.mark.parametrize("block", kernels.BLOCKS, ids=str)
def test_blocks_of_every_shape_give_the_same_sums(block, certification, cupy, monkeypatch) -> None:
    """Of float32, of short storage and on tensor cores; vectors of channels and single ones."""
    from convae.engine.gpu import ways

    model = convae.Autoencoder((8, 6, 7), [Layer(40, 3, stride=2), Layer(3, (2, 1))])
    found = [*GradientProgram(model, 3, NONE, False).program.problems()]
    found = [p for p in found if kernels.suits_products(p)]
    monkeypatch.setattr(kernels, "block_of", lambda problem, tensor=0: block)
    start = kernels.BLOCKS.index(block)
    for index, problem in enumerate(found, start):
        if problem.operation == "g" and block[0] > 128:
            continue  # see block_of
        dtype, is_tensor = [("float32", False), ("float32", True), ("bfloat16", True)][index % 3]
        own = shorter(problem, dtype) if dtype != "float32" else problem
        limit = certification.tolerance(own, is_tensor and dtype == "float32")
        assert certification.certify(ways.Tiles(is_tensor), own, limit, cupy) <= limit


@pytest.fixture
def planned_anew():
    """Lets a test change what boxes are chosen by."""
    edges.edge_of.cache_clear()
    yield
    edges.edge_of.cache_clear()


@pytest.mark.parametrize("at_once", [264, 1], ids=["small boxes", "large boxes"])
@pytest.mark.parametrize("dtype", kernels.STORAGE)
@pytest.mark.parametrize("name", EDGES)
def test_edges_give_the_same_sums(
    name: str, dtype: str, at_once: int, planned_anew, certification, cupy, monkeypatch
) -> None:
    """Boxes of parts of examples, and of several; a batch that the last box does not fill."""
    from convae.engine.gpu.ways import Edges

    monkeypatch.setattr(edges, "LEAST_PRODUCTS", 0)
    monkeypatch.setattr(edges, "AT_ONCE", at_once)
    model = convae.Autoencoder(*EDGES[name])
    tried = []
    for problem in GradientProgram(model, 5, NONE, False).program.problems():
        own = shorter(problem, dtype) if dtype != "float32" else problem
        if Edges().suits(own):
            limit = certification.tolerance(own, dtype == "float32")
            assert certification.certify(Edges(), own, limit, cupy) <= limit
            tried.append(own.operation)
    assert tried == ["c", "error", "c", "g"]


def test_edges_suit_shared_kernels_of_few_channels(cupy) -> None:
    from convae.engine.gpu.ways import Edges

    def tried(shape: tuple[int, ...], layer: Layer, examples: int = 65_536) -> int:
        model = convae.Autoencoder(shape, [layer])
        program = GradientProgram(model, examples, NONE, False).program
        return sum(map(Edges().suits, program.problems()))

    assert tried((4, 9, 9), Layer(8, 5)) == 4
    assert tried((4, 9, 9), Layer(8, 5), examples=4) == 0  # too little to do
    assert tried((5, 9, 9), Layer(8, 3)) == 0  # channels
    assert tried((4, 9, 9), Layer(8, 6)) == 0  # elements of a filter
    assert tried((4, 9, 9), Layer(6, 3)) == 0  # filters that are no vectors
    assert tried((4, 9, 9), Layer(8, 3, groups=2)) == 0
    assert tried((1, 9, 9), Layer(8, 3, sharing="tiled", tile=2)) == 0
    assert tried((1, 9, 9), Layer(8, 3, hidden_bias="position")) == 3  # not the c with a bias


def test_a_card_with_little_shared_memory_gets_smaller_boxes() -> None:
    model = convae.Autoencoder(*EDGES["colours"])
    problems = [*GradientProgram(model, 256, NONE, False).program.problems()]
    error = next(problem for problem in problems if problem.operation == "error")
    much, little = (edges.edge_of(error, room << 10) for room in (110, 60))
    assert much.shared_bytes > 60 << 10 >= little.shared_bytes
    assert little.boxes > much.boxes
    assert edges.edge_of(error, 1 << 10) is None


def update_problem(method: object, **settings: object) -> Problem:
    vectors = ["velocity"] if isinstance(method, Momentum) else ["first_moment", "second_moment"]
    flat = ["parameters", "gradients", *vectors, "average"]
    arrays = [(role, (300,), "float32") for role in flat]
    arrays += [("energy", (), "float64"), ("J", (), "float64"), ("numbers", (4,), "float64")]
    given = tuple(sorted({"method": method, **settings}.items()))
    return Problem("update", tuple(arrays), (), ("parameters", *vectors, "average"), given)


@pytest.mark.parametrize(
    "method",
    [
        Momentum(0.9, True, 0.1),
        Momentum(0.0, False, 0.0),
        Moments(0.9, 0.999, 1e-8, 0.1, False),
        Moments(0.8, 0.9, 1e-3, 0.0, True),
    ],
    ids=str,
)
@pytest.mark.parametrize("clip", [None, 0.1])
def test_updates(method: object, clip: float | None, certification, cupy) -> None:
    from convae.engine.gpu.ways import Passes

    problem = update_problem(method, **({} if clip is None else {"clip": clip}))
    assert certification.certify(Passes(), problem, 1e-5, cupy) < 2e-6


def test_a_gradient_that_is_not_finite_counts_as_zero(certification, cupy) -> None:
    from convae.engine.gpu.ways import Passes

    problem = update_problem(Momentum(0.5, False, 0.0))
    arrays = {role: cupy.ones(shape, dtype) for role, shape, dtype in problem.arrays}
    arrays["energy"][...] = np.nan
    arrays["gradients"][7] = np.nan
    Passes().build(problem, arrays)()
    assert (arrays["velocity"] == 0.5).all()
    assert (arrays["parameters"] == 0.5).all()


@pytest.mark.parametrize("examples", [1, 20, 200])
def test_few_and_many_parts_are_added_up(examples: int, certification, cupy) -> None:
    from convae.engine.gpu.ways import Passes

    arrays = ("G", (examples, 20, 20, 16), "float32"), ("db", (16,), "float32")
    problem = Problem("bias_gradient", arrays, ("db",), (), ())
    assert certification.certify(Passes(), problem, 1e-5, cupy) < 5e-6


@pytest.mark.parametrize("shape", [(4,), (300,), (3, 2, 2), (2, 5, 7), (5, 1, 1)])
def test_bias_gradients(shape: tuple[int, ...], certification, cupy) -> None:
    from convae.engine.gpu.ways import Passes

    G = (6, 5, 7, shape[0])
    arrays = (("G", G, "float32"), ("db", shape, "float32"))
    problem = Problem("bias_gradient", arrays, ("db",), (), (("scale", 0.25),))
    assert certification.certify(Passes(), problem, 1e-5, cupy) < 2e-6


def test_ways_leave_to_others_what_they_do_not_cover(cupy) -> None:
    from convae.engine.gpu import ways

    plain = engine.resolve(size=(6, 6), kernel=3, padding="same")
    mirrored = engine.resolve(size=(6, 6), kernel=3, padding="same", padding_mode="reflect")
    own = type(RELU)(name="own", function=RELU.function)

    def problem(dtype: str = "float32", channels: int = 2, **settings: object) -> Problem:
        shapes = {"K": (3, 3, channels, 4), "V": (2, 6, 6, channels), "G": (2, 6, 6, 4)}
        arrays = tuple((role, shape, dtype) for role, shape in shapes.items())
        return Problem("h", arrays, ("V",), (), tuple({"geometry": plain, **settings}.items()))

    for way in (ways.Tiles(), ways.Narrow()):
        assert way.suits(problem())
        assert way.suits(problem("float16", activation=RELU))
        assert not way.suits(problem("float64"))
        assert not way.suits(problem(geometry=mirrored))
        assert not way.suits(problem(activation=own))
    assert not ways.Narrow().suits(problem(channels=5))
    assert ways.candidates(problem(), [ways.Tiles(True)], tf32=False) == []
    assert len(ways.candidates(problem("float16"), [ways.Tiles(True)], tf32=False)) == 1
    own = [ways.cudnn.CudnnPlan(0), ways.cudnn.CudnnPlan(0, tensor_cores=True), ways.Tiles()]
    assert ways.candidates(problem(channels=4), own, tf32=False) == [own[0], own[2]]
    assert ways.candidates(problem(channels=4), own, tf32=True) == own[1:]


def test_kernels_know_all_activations() -> None:
    assert set(kernels.ACTIVATIONS) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", ["two axes", "local, of logits"])
def test_the_identity_holds_for_chosen_ways(name: str, certification, cupy) -> None:
    from convae.engine.gpu.ways import Narrow, Tiles

    chosen = {"c": Tiles(), "h": Narrow(), "g": Tiles()}
    for problem in problems_of(name):
        if problem.operation == "c":
            own = {**chosen, "h": Tiles()} if problem.shape("V")[-1] > 4 else chosen
            assert certification.identity(own, problem, cupy) < 1e-6
            assert certification.identity({**own, "g": Doubled()}, problem, cupy) > 0.1


@pytest.mark.parametrize("f", ACTIVATIONS)
def test_what_is_not_a_number_stays_so(f: str, cupy) -> None:
    from convae.engine.gpu.ways import Tiles

    model = convae.Autoencoder((1, 4, 4), [Layer(2, 3, activation=f)])
    problem = next(GradientProgram(model, 2, NONE, False).program.problems())
    arrays = {role: cupy.ones(shape, dtype) for role, shape, dtype in problem.arrays}
    arrays["V"][1, 0, 0] = np.nan
    Tiles().build(problem, arrays)()
    found = cupy.isnan(arrays["Z"]).any(axis=-1)
    assert found.tolist() == [[[False] * 2] * 2, [[True, False], [False] * 2]]


# ---- planted faults


class Doubled:
    """A way whose sums are twice too large; the base of further faults."""

    name, tensor_cores = "faulty", False

    def records(self, problem: Problem) -> bool:
        return True

    def suits(self, problem: Problem) -> bool:
        return kernels.suits_products(problem)

    def spoil(self, arrays: dict, out) -> None:
        out *= 2

    def build(self, problem: Problem, arrays: dict):
        from convae.engine.gpu.ways import Tiles

        right = Tiles().build(problem, arrays)
        out = arrays[problem.written[0]]

        def run() -> None:
            right()
            self.spoil(arrays, out)

        return run


class OffByOne(Doubled):
    """Stores one element behind its array."""

    def spoil(self, arrays: dict, out) -> None:
        import cupy

        memory = out.data.mem
        end = out.data.ptr - memory.ptr + out.nbytes
        behind = cupy.ndarray(1, "float32", cupy.cuda.MemoryPointer(memory, end))
        behind[...] = 3


class OneIsWrong(Doubled):
    def spoil(self, arrays: dict, out) -> None:
        out.reshape(-1)[-1] += 0.01


class NotANumber(Doubled):
    def spoil(self, arrays: dict, out) -> None:
        out.reshape(-1)[0] = np.nan


class LeavesOut(Doubled):
    """Leaves an element as it was."""

    def build(self, problem: Problem, arrays: dict):
        import cupy

        from convae.engine.gpu.ways import Tiles

        role = problem.written[0]
        own = cupy.empty_like(arrays[role])
        right = Tiles().build(problem, {**arrays, role: own})

        def run() -> None:
            right()
            arrays[role].reshape(-1)[:-1] = own.reshape(-1)[:-1]

        return run


class Changes(Doubled):
    def spoil(self, arrays: dict, out) -> None:
        arrays["V"].reshape(-1)[3] += 1


class Repeats(Doubled):
    """Has other last digits every time."""

    calls = 0

    def spoil(self, arrays: dict, out) -> None:
        self.calls += 1
        out *= 1 + 1e-6 * self.calls


class NoEpilogue(Doubled):
    """Forgets what stands behind the product."""

    def build(self, problem: Problem, arrays: dict):
        from convae.engine.gpu.ways import Tiles

        settings = tuple((k, v) for k, v in problem.settings if k not in ("activation", "slope"))
        others = problem.arrays, problem.written, problem.updated
        return Tiles().build(Problem(problem.operation, *others, settings), arrays)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Doubled, "error 1.0e"),
        (OffByOne, "writes beyond Z"),
        (OneIsWrong, "error"),
        (NotANumber, "error inf"),
        (LeavesOut, "error inf"),
        (Changes, "changes V"),
        (Repeats, "differs when it is computed again"),
        (NoEpilogue, "error"),
    ],
)
def test_faults_are_refused(fault: type, says: str, certification, cupy) -> None:
    problem = next(p for p in problems_of("two axes") if p.operation == "c")
    with pytest.raises(certification.CertificationError, match=says):
        certification.certify(fault(), problem, 1e-5, cupy)


def test_a_missing_wait_is_refused(certification, cupy) -> None:
    """Work on a stream of its own, for which nothing waits: seen where the order is drawn."""

    class OwnStream(Doubled):
        def records(self, problem: Problem) -> bool:
            return False  # it waits for the device, which a capture refuses

        def build(self, problem: Problem, arrays: dict):
            from convae.engine.gpu.ways import Tiles

            right = Tiles().build(problem, arrays)
            role = problem.written[0]
            copy = cupy.empty_like(arrays[role])
            first, second = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))

            def run() -> None:
                cupy.cuda.Device().synchronize()
                with first:
                    right()
                with second:  # does not wait for the first
                    copy[...] = arrays[role]
                with first:
                    arrays[role][...] = 0
                cupy.cuda.Device().synchronize()
                arrays[role][...] = copy

            return run

    if "PRETEND_SEED" not in os.environ:
        pytest.skip("work is done when it is asked for, unless PRETEND_SEED draws its order")
    problem = next(p for p in problems_of("two axes") if p.operation == "c")

    def often() -> None:
        for _ in range(20):
            certification.certify(OwnStream(), problem, 1e-5, cupy)

    with pytest.raises(certification.CertificationError):
        often()
