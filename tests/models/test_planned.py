"""Programs on the CPU give what the recipe gives in array code, whatever divides the work."""

from __future__ import annotations

import gc
import logging
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import convae
from convae import Layer
from convae.engine import ArrayBackend
from convae.engine.cpu import threads
from convae.errors import UserError
from convae.models import parameters
from convae.models.penalties import NONE, Penalty
from tests.problems import part_of_examples, stacks

pytestmark = pytest.mark.usefixtures("divided")


def pair(shape: tuple[int, ...], stack: list[Layer], **how) -> list[convae.Autoencoder]:
    """The same model by compiled programs and by array code."""
    compiled = convae.Autoencoder(shape, stack, **how)
    plain = convae.Autoencoder(shape, stack, backend=ArrayBackend(), **how)
    rng = np.random.default_rng(1)
    for name, array in compiled.parameters.items():
        array[...] = plain.parameters[name][...] = 0.3 * rng.standard_normal(array.shape)
    return [compiled, plain]


def compare(
    shape: tuple[int, ...],
    stack: list[Layer],
    examples: int,
    penalty: Penalty = NONE,
    has_target: bool = False,
    **how,
) -> None:
    models = pair(shape, stack, **how)
    tolerance = 1e-11 if models[0].dtype == "float64" else 2e-5
    rng = np.random.default_rng(0)
    x = rng.random((examples, *shape)).astype(models[0].dtype)
    target = rng.random(x.shape).astype(x.dtype) if has_target else None
    (J, found), (J_plain, expected) = (m.loss_and_gradients(x, target, penalty) for m in models)
    np.testing.assert_allclose(J, J_plain, rtol=tolerance)
    for name, gradient in expected.items():
        scale = np.abs(gradient).max() + 1e-9
        assert np.abs(found[name] - gradient).max() < tolerance * scale, name
    for use in (
        lambda m: m.encode(x),
        lambda m: m.decode(m.encode(x), m.switches(x)),
        lambda m: m.reconstruct(x),
        lambda m: m.evaluate(x, target)[1],
        lambda m: m.evaluate(x, target)[0],
        lambda m: m.codes(x)[0],
    ):
        np.testing.assert_allclose(*map(use, models), rtol=tolerance, atol=tolerance)


@part_of_examples(0.4)
@given(data=st.data())
def test_stacks_of_every_kind(data: st.DataObject) -> None:
    shape, stack, loss = data.draw(stacks())
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    examples, has_target = data.draw(st.integers(1, 9)), data.draw(st.booleans())
    compare(shape, stack, examples, has_target=has_target, loss=loss, dtype=dtype)


STACK = [Layer(20, 5, stride=2, padding="same"), Layer(70, 3, stride=2, padding="same")]
POOLED = [
    Layer(20, 5, padding="same", pool=2),
    Layer(30, 3, padding="same", pool=(2, 1), activation="sigmoid"),
]


@pytest.mark.parametrize("examples", [1, 2, 3, 5, 64, 150])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 30, 17)])
def test_any_number_of_examples(examples: int, shape: tuple[int, ...]) -> None:
    compare(shape, STACK, examples)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("shape", [(2, 20), (3, 9, 12), (2, 5, 4, 6)])
def test_padding_by_copies(mode: str, shape: tuple[int, ...]) -> None:
    """With other padding before than after, biases by position, and in chunks."""
    pairs = ((3, 1), (1, 3), (0, 2))[: len(shape) - 1]
    how = {"padding_mode": mode, "activation": "sigmoid", "visible_bias": "position"}
    stack = [Layer(20, 3, stride=2, padding=pairs, **how), Layer(5, 2, padding=1, **how)]
    for examples in (1, 40):
        compare(shape, stack, examples, has_target=True)
    model = convae.Autoencoder(shape, stack)
    products = [line for line in model.plan(3) if line.startswith(("c(", "h(", "error(", "g("))]
    assert len(products) == 9
    assert all("compiled" in line for line in products)


@pytest.mark.parametrize("examples", [1, 3, 40])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 12, 18)])
def test_stacks_that_pool(examples: int, shape: tuple[int, ...]) -> None:
    for penalty in (NONE, Penalty(l1=0.3)):
        compare(shape, POOLED, examples, penalty, has_target=True)


@pytest.mark.parametrize(
    "penalty",
    [Penalty(l1=0.3), Penalty(kl=0.3), Penalty(contractive=0.1), Penalty(weight_decay=0.1)],
    ids=str,
)
def test_penalties_of_chunks_add_up(penalty: Penalty) -> None:
    stack = [Layer(4, 3, stride=2, activation="sigmoid"), Layer(3, 2, activation="sigmoid")]
    compare((2, 9, 8), stack, 40, penalty, has_target=True, dtype="float64")


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "sigmoid", "tanh", "softplus"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_activations(activation: str, dtype: str) -> None:
    stack = [Layer(18, 3, stride=2, activation=activation), Layer(5, 2, activation=activation)]
    for output in ("identity", "sigmoid"):
        compare((2, 9, 8), stack, 6, dtype=dtype, output_activation=output)


@pytest.mark.parametrize("sharing", ["channel", "tiled", "position", "none"])
def test_biases(sharing: str) -> None:
    stack = [
        Layer(4, 3, stride=2, sharing="tiled", tile=2, visible_bias=sharing, hidden_bias=sharing),
        Layer(3, 2, visible_bias=sharing),
    ]
    compare((2, 9, 8), stack, 6, dtype="float64")


def test_a_whole_image_as_a_kernel() -> None:
    stack = [Layer(6, 3, stride=2), Layer(30, "input", activation="identity")]
    compare((1, 15, 15), stack, 20)
    compare((1, 9, 9), [Layer(17, "input")], 3)


@pytest.mark.parametrize("examples", [1, 3, 64])
@pytest.mark.parametrize("stack", [STACK, POOLED], ids=["strided", "pooled"])
def test_results_do_not_depend_on_the_number_of_threads(
    rng, examples: int, stack: list[Layer]
) -> None:
    x = rng.random((examples, 3, 40, 40), dtype="float32")
    model = convae.Autoencoder((3, 40, 40), stack)
    found = set()
    try:
        for workers in (1, 2, 5, 5):
            convae.engine.set_num_threads(workers)
            J = float(model.accumulate_gradients(x))
            found.add((J, model.flat_gradients.tobytes(), model.reconstruct(x).tobytes()))
    finally:
        convae.engine.set_num_threads(threads.cores())
    assert len(found) == 1


@pytest.mark.parametrize("sums", [1, 2, 16])
def test_a_sums_first_gradients_are_computed_in_it(rng, monkeypatch, sums: int) -> None:
    """Memory of a thread's own is for those that are added, and not written to without them."""
    monkeypatch.setattr(parameters, "FEWEST_SUMS", sums)
    monkeypatch.setattr(parameters, "MOST_SUMS", sums)
    model, plain = pair((3, 40, 40), STACK)
    try:
        convae.engine.set_num_threads(1)
        chunks = len(model._planned._chunks(64, NONE))
        assert 2 < chunks < 16
        for _ in range(3):
            x = rng.random((64, 3, 40, 40), dtype="float32")
            J, J_plain = (float(m.accumulate_gradients(x)) for m in (model, plain))
            np.testing.assert_allclose(J, J_plain, rtol=2e-5)
            for name, expected in plain.gradients.items():
                scale = np.abs(expected).max() + 1e-9
                assert np.abs(model.gradients[name] - expected).max() < 2e-5 * scale, name
    finally:
        convae.engine.set_num_threads(threads.cores())
    assert model._planned._gradients().any() == (chunks > sums)


@pytest.mark.parametrize("stack", [STACK, POOLED], ids=["strided", "pooled"])
def test_nan_in_an_example_stays_in_it(rng, stack: list[Layer]) -> None:
    model = convae.Autoencoder((3, 20, 20), stack)
    x = rng.random((37, 3, 20, 20), dtype="float32")
    before = model.encode(x), model.evaluate(x)[1]
    x[11] = np.nan
    for old, new in zip(before, (model.encode(x), model.evaluate(x)[1]), strict=True):
        assert np.isnan(new[11]).any()
        assert (np.delete(old, 11, axis=0) == np.delete(new, 11, axis=0)).all()


def test_a_model_is_freed_with_its_plans(rng) -> None:
    model = convae.Autoencoder((1, 12, 12), STACK)
    model.loss_and_gradients(rng.random((8, 1, 12, 12), dtype="float32"))
    model.reconstruct(rng.random((8, 1, 12, 12), dtype="float32"))
    gone = weakref.ref(model)
    gc.disable()
    try:
        del model
        assert gone() is None
    finally:
        gc.enable()


def test_images_and_results_are_read_and_written_where_they_lie(rng) -> None:
    """In any order of memory, at any address, one after the other; each result stays as it was."""
    model, plain = pair((3, 8, 8), [Layer(8, 3, stride=2), Layer(4, 3)])
    x = rng.random((9, 3, 8, 8), dtype="float32")
    last = model.backend.arrange(x)
    shifted = np.empty(x.nbytes + 1, np.uint8)[1:].view("float32").reshape(x.shape)
    shifted[...] = x
    kept = []
    for batch in (last, x, shifted, last[2:5], x[::2], last[::-1], last, x.astype("float64")):
        for use in ("reconstruct", "encode"):
            given = batch.astype("float32") if batch.dtype == "float64" else batch
            before = given.copy()
            kept.append((getattr(model, use)(given), getattr(plain, use)(np.array(given))))
            assert (given == before).all()
    for found, expected in kept:
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def test_an_activation_of_array_code_has_its_own_memory(rng) -> None:
    models = pair((1, 6, 6), [Layer(4, 3, activation="softplus")], output_activation="tanh")
    x = rng.random((3, 1, 6, 6), dtype="float32")
    results = [[model.reconstruct(part) for part in (x, x[:2], x)] for model in models]
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def test_parameters_may_change_in_place(rng) -> None:
    model = convae.Autoencoder((1, 12, 12), STACK)
    x = rng.random((8, 1, 12, 12), dtype="float32")
    model.loss_and_gradients(x)
    model.flat_parameters *= 0.5
    fresh = convae.Autoencoder((1, 12, 12), STACK, backend=ArrayBackend())
    for name, array in model.parameters.items():
        fresh.parameters[name][...] = array
    np.testing.assert_allclose(model.reconstruct(x), fresh.reconstruct(x), atol=1e-6)


def test_the_plan_can_be_seen(caplog) -> None:
    model = convae.Autoencoder((3, 32, 32), STACK)
    lines = model.plan(100)
    assert lines[0] == "8 chunks of 12 or 13 images, each by a thread"
    assert sum(line.startswith("g(") and "compiled" in line for line in lines) == 2
    assert any(line.startswith("error(") and "vectors of positions" in line for line in lines)
    assert model.plan(1)[0] == "1 chunk of 1 image, shared by the threads"
    with caplog.at_level(logging.DEBUG, "convae"):
        model.plan(7)
    assert any(record.message.startswith("c(K 5x5x3x20") for record in caplog.records)
    pooled = convae.Autoencoder((3, 32, 32), POOLED).plan(100)
    assert sum(line.startswith(("pool(", "take(", "unpool(")) for line in pooled) == 8
    assert all("compiled" in line for line in pooled[1:])
    softplus = convae.Autoencoder((1, 8, 8), [Layer(2, 3, activation="softplus"), Layer(2, 3)])
    assert any(line.endswith("portable") for line in softplus.plan(2))
    plain = convae.Autoencoder((1, 8, 8), STACK[:1], backend=ArrayBackend())
    with pytest.raises(UserError, match="computes by array code"):
        plain.plan(1)
    with pytest.raises(UserError, match="examples: 0 is too small"):
        model.plan(0)


def test_results_stay_as_they_are_whatever_is_asked_next(rng) -> None:
    """They lie where a program wrote them, which the next call must not write to again."""
    model = convae.Autoencoder((2, 8, 7), [Layer(3, 3), Layer(5, 3, stride=2), Layer(4, "input")])
    asked = {
        "codes": model.codes,
        "encode": lambda x: [model.encode(x)],
        "reconstruct": lambda x: [model.reconstruct(x)],
        "decode": lambda x: [model.decode(model.encode(x))],
        "evaluate": lambda x: [model.evaluate(x)[1]],
    }
    for first in asked.values():
        results = first(rng.random((5, 2, 8, 7), dtype="float32"))
        before = [array.copy() for array in results]
        for then in asked.values():
            then(rng.random((5, 2, 8, 7), dtype="float32"))
            for array, kept in zip(results, before, strict=True):
                np.testing.assert_array_equal(array, kept)
