"""Plans of cuDNN as ways: which problems they suit, and our kernels around them.

What cuDNN itself computes is certified where there is a card; see test_ways.py for how.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

import convae
from convae import Layer
from convae.engine.gpu import cudnn_graphs as graphs
from convae.engine.program import Problem
from convae.models.activations import ACTIVATIONS
from convae.models.gradient_program import GradientProgram
from convae.models.penalties import NONE
from tests.engine.gpu.test_kernels import shorter


@pytest.fixture(scope="session")
def plans(cupy):
    """The module, which needs CuPy."""
    from convae.engine.gpu import cudnn

    return cudnn


def problems(*layers: Layer, **other: object) -> list[Problem]:
    model = convae.Autoencoder((3, 8, 8), layers, **other)
    return list(GradientProgram(model, 4, NONE, False).program.problems())


def test_plans_suit_shared_kernels_alone(plans) -> None:
    plan = plans.CudnnPlan(0)
    suited = [p.operation for p in problems(Layer(4, 3, stride=2)) if plan.suits(p)]
    assert suited == ["c", "error", "c", "g"]
    assert not any(map(plan.suits, problems(Layer(4, 3, sharing="tiled", tile=2))))
    assert not any(map(plan.suits, problems(Layer(4, 3), dtype="float64")))


def test_fused_plans_suit_a_bias_by_channel_few_activations_and_the_slope_of_relu(plans) -> None:
    fused = plans.CudnnPlan(0, fused=True)

    def suited(**layer: object) -> list[tuple[str, bool]]:
        found = [p for p in problems(Layer(4, 3, **layer)) if fused.suits(p)]
        return [(p.operation, fused.product(p).has_slope) for p in found]

    assert suited() == [("c", False), ("c", True)]
    assert suited(activation="tanh") == [("c", False)]
    assert suited(activation="softplus") == []
    assert suited(hidden_bias="position") == [("c", True)]


def test_short_sums_are_for_g_in_short_storage(plans) -> None:
    plan = plans.CudnnPlan(0, short_sums=True)
    found = problems(Layer(4, 3))
    assert not any(map(plan.suits, found))
    short = [shorter(problem, "bfloat16") for problem in found]
    (g,) = [problem for problem in short if plan.suits(problem)]
    assert g.operation == "g"
    assert plan.product(g).output == "bfloat16"
    assert plans.CudnnPlan(0).product(g).output == "float32"
    assert not any(plan.suits(shorter(problem, "float16")) for problem in found)


def test_plans_share_a_workspace(plans, cupy) -> None:
    small, large = plans.workspace(100), plans.workspace(10_000_000)
    assert large.size >= 10_000_000
    assert plans.workspace(200) is large
    assert small.size >= 100


def test_batches_off_the_alignment_are_left_to_others(plans) -> None:
    """The second half of a pair begins where the first ends."""
    layers = [Layer(4, 3)]
    for examples, suited in ((4, True), (3, False)):
        model = convae.Autoencoder((1, 5, 5), layers)
        found = list(GradientProgram(model, examples, NONE, False).program.problems())
        assert any(map(plans.CudnnPlan(0).suits, found)) == suited


@pytest.mark.parametrize("layer", [Layer(6, 3, stride=2), Layer(6, 3, groups=3, padding="same")])
@pytest.mark.parametrize(
    ("kind", "operations"),
    [({}, "chg"), ({"short_sums": True}, "g"), ({"fused": True}, "ch")],
    ids=str,
)
def test_our_kernels_around_a_plan(
    plans, cupy, monkeypatch, layer: Layer, kind: dict[str, bool], operations: str
) -> None:
    """As on a card, with array code in cuDNN's place: orders, epilogues, scales and losses."""
    from convae.engine.gpu import certification

    def computed(self, product, inputs, output):
        backend, K_shape = convae.engine.ArrayBackend(), product.shapes["K"]
        backend.xp = cupy
        K_memory = (K_shape[0], *K_shape[2:], K_shape[1])

        def batch(array):
            return array.transpose(0, array.ndim - 1, *range(1, array.ndim - 1))

        def kernel(array):
            K = array.reshape(K_memory)
            return K.transpose(0, K.ndim - 1, *range(1, K.ndim - 1))

        def run() -> None:
            if product.operation == "g":
                V, G = map(batch, inputs)
                kernel(output)[...] = backend.g(G, V, K_shape, product.geometry)
                return
            operation = getattr(backend, product.operation)
            result = operation(kernel(inputs[1]), batch(inputs[0]), product.geometry)
            if product.activation is not None:
                bias = inputs[2].reshape(-1, *(1,) * (result.ndim - 2))
                result += bias
                ACTIVATIONS[product.activation].function(cupy, result)
            if product.has_slope:
                result = result * (batch(inputs[2]) > 0)
            batch(output)[...] = result

        return run

    monkeypatch.setattr(plans.CudnnPlan, "_plan", computed)
    monkeypatch.setattr(plans.CudnnPlan, "records", lambda self, problem: False)  # unlike cuDNN
    plan, tried = plans.CudnnPlan(0, **kind), []
    penalised = problems(layer, Layer(5, "input", visible_bias="position", activation="tanh"))
    for problem in penalised:
        if plan.short_sums:
            problem = shorter(problem, "bfloat16")
        if plan.suits(problem):
            limit = certification.tolerance(problem, False)
            certification.certify(plan, problem, limit, cupy)
            tried.append("h" if problem.operation == "error" else problem.operation)
    assert {*tried} == {*operations}


def test_plans_are_counted_that_can_be_built(plans, monkeypatch) -> None:
    """With stand-ins for cuDNN, of whose five plans two have other numbers than wanted."""

    class NotSupportedError(Exception):
        pass

    class Graph:
        def get_execution_plan_count(self) -> int:
            return 5

        def build_plan_at_index(self, index: int) -> None:
            if index in (0, 3):
                raise NotSupportedError(index)

    library = SimpleNamespace(cudnnGraphNotSupportedError=NotSupportedError)
    monkeypatch.setitem(sys.modules, "cudnn", library)
    proposed = plans.Proposed(graphs.Lowered(Graph(), (), None))
    assert [proposed.index(place) for place in (1, 0, 2, 1)] == [2, 1, 4, 2]
    with pytest.raises(RuntimeError, match="cuDNN has 3 plans"):
        proposed.index(3)
