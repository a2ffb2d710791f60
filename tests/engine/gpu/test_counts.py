"""What a card is asked for, as the pretend GPU counts it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

import convae
from convae import Layer, engine
from convae.data.splits import InMemory
from convae.report.evaluation import measure
from tests.helpers import cupy_or_skip

pytestmark = pytest.mark.gpu

BOOK = [Layer(32, 5, stride=2, padding="same"), Layer(64, 3, stride=2, padding="same")]
SHARINGS = [
    Layer(8, 3, padding="same", sharing="local"),
    Layer(8, 4, stride=2, padding="same", sharing="tiled", tile=2),
    Layer(4, "input", activation="identity"),
]


@pytest.fixture(scope="module")
def pretend_gpu():
    cupy_or_skip()
    return pytest.importorskip("pretend_gpu", reason="only the pretend GPU counts")


@pytest.mark.parametrize(
    ("shape", "layers", "most"),
    [
        ((1, 28, 28), convae.choose_layers((1, 28, 28), 32), 200),
        ((3, 32, 32), convae.choose_layers((3, 32, 32), 128), 155),
        ((1, 8, 8), SHARINGS, 160),
        ((2, 64), convae.choose_layers((2, 64), 16), 215),
    ],
)
def test_a_step_has_few_launches(
    pretend_gpu, shape: tuple[int, ...], layers: Sequence[Layer], most: int, rng
) -> None:
    model = convae.Autoencoder(shape, layers, output_activation="sigmoid", device="gpu")
    step = convae.TrainingStep(model, convae.AdamW(), gpu_engine="portable")
    x = model.xp.asarray(rng.random((16, *shape), dtype="float32"))
    step(x)
    with pretend_gpu.counting() as counts:
        step(x)
    assert counts["launches"] <= most
    assert "synchronizations" not in counts


@pytest.mark.parametrize(
    ("shape", "layers", "nodes"),
    [
        ((1, 28, 28), BOOK, 29),
        ((1, 28, 28), convae.choose_layers((1, 28, 28), 32), 70),
        ((3, 32, 32), convae.choose_layers((3, 32, 32), 128), 60),
        ((1, 8, 8), SHARINGS, 40),
        ((2, 64), convae.choose_layers((2, 64), 16), 70),
    ],
)
def test_a_recorded_step_is_one_launch(
    pretend_gpu, shape: tuple[int, ...], layers: Sequence[Layer], nodes: int, rng
) -> None:
    """What is not in the graph: copying the images and the numbers in, and the loss out."""
    model = convae.Autoencoder(shape, layers, output_activation="sigmoid", device="gpu")
    step = convae.TrainingStep(model, convae.AdamW(), gpu_engine="fast")
    x = model.xp.asarray(rng.random((4, *shape), dtype="float32"))
    for _ in range(3):
        step(x)
    with pretend_gpu.counting() as counts:
        step(x)
    assert counts["graph_launches"] == 1
    (plan,) = step._planned.program.plans.kept.values()
    (graph,) = plan.run.graphs
    assert len(pretend_gpu.graph_operations(graph)) <= nodes
    assert "synchronizations" not in counts


def test_a_measurement_waits_at_its_end_only(pretend_gpu, rng) -> None:
    model = convae.Autoencoder((1, 8, 8), SHARINGS, device="gpu")
    split = InMemory(rng.integers(0, 256, (40, 1, 8, 8), dtype="uint8"))
    measure(model, split, 8)
    with pretend_gpu.counting() as counts:
        measure(model, split, 8)
    assert counts["device_to_host"] == 3


def test_tf32_is_what_each_backend_says_it_is(pretend_gpu, rng) -> None:
    xp = cupy_or_skip()
    geometry = engine.resolve(size=(6, 6), kernel=3)
    K, V = (xp.asarray(rng.random((2, 2, n, n), dtype="float32")) for n in (3, 6))
    found = []
    for tf32 in (False, True, False):
        with pretend_gpu.counting() as counts:
            engine.backend_for("gpu", tf32=tf32).c(K, V, geometry)
        found.append(counts.get("tf32_gemms", 0))
    assert found == [0, 1, 0]
