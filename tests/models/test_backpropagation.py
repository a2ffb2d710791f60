"""Gradients of whole models, against PyTorch's autograd and central differences."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import convae
from convae import Layer, Penalty
from convae.models.activations import ACTIVATIONS
from convae.models.backpropagation import training_chunks, training_work
from tests.helpers import (
    STACKS,
    ShortStorage,
    Untied,
    assert_gradients,
    build,
    cupy_or_skip,
    device_of,
    error,
)
from tests.problems import layers, part_of_examples

pytestmark = pytest.mark.usefixtures("divided")


def assert_gradients_equal_autograd(
    model: convae.Autoencoder, x: np.ndarray, target: np.ndarray | None = None
) -> None:
    xp = model.xp
    loss, gradients = model.loss_and_gradients(
        xp.asarray(x), None if target is None else xp.asarray(target)
    )
    oracle = Untied(model)
    expected = oracle.loss(torch.tensor(x), None if target is None else torch.tensor(target))
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    assert_gradients(gradients, oracle.gradients())


@pytest.mark.parametrize("depth", STACKS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    ("loss", "output"),
    [
        *(("mse", name) for name in ACTIVATIONS),
        *((loss, "sigmoid") for loss in ("bce", "l1", "ssim")),
    ],
)
def test_gradients_equal_autograd(
    xp: ModuleType, rng, depth: int, activation: str, loss: str, output: str
) -> None:
    stack = [replace(layer, activation=activation) for layer in STACKS[depth]]
    model = build(xp, (2, 6, 5), stack, output_activation=output, loss=loss)
    assert_gradients_equal_autograd(model, rng.random((4, 2, 6, 5)))


def test_gradients_with_a_target_of_its_own(xp: ModuleType, rng) -> None:
    model = build(xp, (2, 6, 5), STACKS[2])
    x, target = rng.random((2, 4, 2, 6, 5))
    assert_gradients_equal_autograd(model, x, target)


@part_of_examples(0.3)
@given(data=st.data())
def test_gradients_of_the_whole_family_equal_autograd(xp: ModuleType, data: st.DataObject) -> None:
    axes = data.draw(st.integers(1, 3))
    shape = (2, *(data.draw(st.integers(4, (9, 6, 4)[axes - 1])) for _ in range(axes)))
    groups = data.draw(st.integers(1, 2))
    lower = data.draw(layers(shape, groups))
    upper = data.draw(layers((lower.filters, *lower.geometry(shape).output), groups))
    model = build(xp, shape, [lower, upper], "identity")
    assert_gradients_equal_autograd(model, np.random.default_rng(0).standard_normal((3, *shape)))


def test_tied_gradient_is_the_sum_of_an_untied_copys(rng) -> None:
    tied = build(np, (2, 6, 5), STACKS[2])
    untied = build(np, (2, 6, 5), [replace(layer, tied=False) for layer in STACKS[2]])
    for name, array in untied.parameters.items():
        array[...] = tied.parameters[name.replace("decoder_kernel", "kernel")]
    x = rng.random((4, 2, 6, 5))
    loss, gradients = tied.loss_and_gradients(x)
    other_loss, halves = untied.loss_and_gradients(x)
    assert loss == other_loss
    for name, gradient in gradients.items():
        expected = halves[name]
        if name.endswith("kernel"):
            expected = expected + halves[name.replace("kernel", "decoder_kernel")]
        np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-16)


def test_halves_are_those_of_an_untied_copy(rng) -> None:
    """With a decoder kernel of its own, autograd tells the decoder's half from the encoder's."""
    model = build(np, (2, 6, 5), STACKS[2])
    x = rng.random((4, 2, 6, 5))
    encoder, decoder = model.gradient_halves(x)
    oracle = Untied(model)
    for index in range(len(model.layers)):
        own = oracle.tensors[f"{index}.kernel"].detach().clone().requires_grad_()
        oracle.tensors[f"{index}.decoder_kernel"] = own
    oracle.loss(torch.tensor(x)).backward()
    expected = oracle.gradients()
    for index in range(len(model.layers)):
        for half, name in ((encoder, "kernel"), (decoder, "decoder_kernel")):
            np.testing.assert_allclose(
                half[f"{index}.kernel"], expected[f"{index}.{name}"], rtol=1e-9, atol=1e-12
            )


def test_linear_model_by_central_differences(rng) -> None:
    """Untied and linear, the reconstruction is linear in each kernel, so J is quadratic in it.

    For a quadratic function the central difference is exact whatever the step: it is 1 here.
    """
    layer = Layer(2, 3, stride=2, padding="same", activation="identity", tied=False)
    model = build(np, (1, 4, 4), [layer], output_activation="identity")
    x = rng.random((3, 1, 4, 4))
    _, gradients = model.loss_and_gradients(x)
    for name, array in model.parameters.items():
        for index in np.ndindex(array.shape):
            ends = []
            for change in (1, -1):
                array[index] += change
                ends.append(model.loss_and_gradients(x)[0])
                array[index] -= change
            difference = (ends[0] - ends[1]) / 2
            assert gradients[name][index] == pytest.approx(difference, rel=1e-9, abs=1e-12)


# ---- chunks of a batch


@pytest.mark.parametrize("examples", [100, 128])
@pytest.mark.parametrize("loss", ["mse", "bce", "l1", "ssim"])
def test_chunks_of_a_batch_do_not_show(rng, examples: int, loss: str) -> None:
    model = build(np, (2, 6, 5), STACKS[2], loss=loss)
    assert len(training_chunks(model.backend, model.layers, examples)) > 1
    assert_gradients_equal_autograd(model, *rng.random((2, examples, 2, 6, 5)))


def test_work_of_a_step_counted_by_hand() -> None:
    """Two layers of 4 and 1 positions: c, h, g and c, g below, and h once more above."""
    model = convae.Autoencoder((1, 8), [Layer(2, 2, stride=2), Layer(3, 4)])
    below, above = 4 * 2 * 2, 1 * 3 * 4 * 2  # outputs * filters * elements
    assert training_work(model.layers) == 5 * below + 6 * above


# ---- activations stored in two bytes

SHAPE = (2, 9, 8)
STACK = [
    Layer(8, 3, stride=2, padding="same", activation="relu"),
    Layer(12, 3, padding="same", activation="tanh", hidden_bias="position"),
]
TOLERANCE = {"float16": 3e-3, "bfloat16": 1e-2}


def stored(xp: ModuleType, storage: str) -> convae.Autoencoder:
    """A model with short activations; on the CPU by a backend that accepts them."""
    pytest.importorskip("ml_dtypes", reason="ml_dtypes, which has bfloat16, is not installed")
    backend = ShortStorage() if xp is np else None
    device = device_of(xp)
    return convae.Autoencoder(SHAPE, STACK, device=device, storage=storage, backend=backend)


@pytest.mark.parametrize("storage", TOLERANCE)
def test_gradients_with_short_storage_are_close(xp: ModuleType, rng, storage: str) -> None:
    x = rng.random((64, *SHAPE), dtype="float32")
    loss, gradients = stored(xp, storage).loss_and_gradients(xp.asarray(x))
    oracle = Untied(convae.Autoencoder(SHAPE, STACK, dtype="float64"))
    expected = oracle.loss(torch.tensor(x.astype("float64")))
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=TOLERANCE[storage])
    for name, wanted in oracle.gradients().items():
        assert gradients[name].dtype == "float32"
        assert error(gradients[name], wanted) < TOLERANCE[storage], name


@pytest.mark.parametrize("storage", TOLERANCE)
def test_short_storage_does_not_show_in_results(xp: ModuleType, rng, storage: str) -> None:
    model = stored(xp, storage)
    x = xp.asarray(rng.random((3, *SHAPE), dtype="float32"))
    H = model.encode(x)
    assert H.dtype == model.decode(H).dtype == model.reconstruct(x).dtype == "float32"
    assert {code.dtype.name for code in model.codes(x)} == {"float32"}


def test_small_errors_do_not_underflow(xp: ModuleType, rng) -> None:
    """Without loss scaling float16 would store errors of 1e-9 as zeros."""
    pixels = rng.random((2000, *SHAPE), dtype="float32")
    model = stored(xp, "float16")
    x = xp.asarray(pixels)
    target = model.reconstruct(x) + np.float32(1e-3)
    _, gradients = model.loss_and_gradients(x, target)
    assert all(bool((array != 0).any()) for array in gradients.values())


def test_penalties_of_codes_need_them_whole(xp: ModuleType, rng) -> None:
    model = stored(xp, "bfloat16")
    x = xp.asarray(rng.random((3, *SHAPE), dtype="float32"))
    for penalty in (Penalty(l1=0.1), Penalty(contractive=0.1)):
        with pytest.raises(ValueError, match=r"penalty: .*storage='bfloat16'"):
            model.loss_and_gradients(x, penalty=penalty)
    model.loss_and_gradients(x, penalty=Penalty(weight_decay=0.1))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"storage": "int8"}, "storage: 'int8' is unknown; expected one of float16, bfloat16"),
        ({"storage": "bfloat16"}, "storage: .*float32 on the cpu"),
        ({"storage": "float16", "dtype": "float64"}, "storage: .*float64 on the cpu"),
        (
            {"storage": "float16", "dtype": "float64", "backend": ShortStorage()},
            "storage: .*float64",
        ),
        ({"storage": "float16", "loss": "bce", "backend": ShortStorage()}, "storage: .*bce"),
    ],
)
def test_short_storage_is_refused_where_it_cannot_be(arguments: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        convae.Autoencoder(SHAPE, STACK, **arguments)


def test_copies_store_alike() -> None:
    assert copy.deepcopy(stored(np, "float16")).storage == "float16"


@pytest.mark.gpu
def test_copies_on_a_gpu_store_alike() -> None:
    cupy_or_skip()
    model = convae.Autoencoder(SHAPE, STACK, device="gpu", storage="float16")
    assert copy.deepcopy(model).storage == "float16"
    assert copy.deepcopy(model).device == "gpu"
