"""The model against PyTorch's autograd, central differences, and an untied copy of itself."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import convae
from convae import Layer, engine
from convae.models.activations import ACTIVATIONS
from tests import untied

STACKS = {
    1: [Layer(3, 3, stride=2, padding="same")],
    2: [Layer(3, 3, stride=2, padding="same"), Layer(4, 2, padding=1)],
    3: [Layer(3, 3, padding="full"), Layer(4, 3, stride=(2, 1)), Layer(2, "input")],
}
LOSSES = [("mse", name) for name in ACTIVATIONS] + [("bce", "sigmoid")]


def build(xp: ModuleType, *args, **kwargs) -> convae.Autoencoder:
    device = "cpu" if xp is np else "gpu"
    model = convae.Autoencoder(*args, dtype="float64", device=device, **kwargs)
    rng = np.random.default_rng(1)
    for array in model.parameters.values():  # biases too, which start at zero
        array += xp.asarray(0.1 * rng.standard_normal(array.shape))
    return model


def assert_gradients_equal_autograd(model, xp, x, target=None) -> None:
    loss, gradients = model.loss_and_gradients(
        xp.asarray(x), None if target is None else xp.asarray(target)
    )
    if xp is not np:
        host = convae.Autoencoder(**model.configuration())
        for name, array in model.parameters.items():
            host.parameters[name][...] = engine.to_numpy(array)
        model = host
    expected_loss, expected = untied.loss_and_gradients(model, x, target)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    assert gradients.keys() == expected.keys() == model.parameters.keys()
    for name, gradient in gradients.items():
        error = np.linalg.norm(engine.to_numpy(gradient) - expected[name])
        assert error < 1e-9 * max(np.linalg.norm(expected[name]), 1e-3), name


@pytest.mark.parametrize("depth", STACKS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("loss", "output"), LOSSES)
def test_gradients_equal_autograd(
    xp: ModuleType, rng, depth: int, activation: str, loss: str, output: str
) -> None:
    layers = [
        Layer(**{**layer.configuration(), "activation": activation}) for layer in STACKS[depth]
    ]
    model = build(xp, (2, 6, 5), layers, output_activation=output, loss=loss)
    assert_gradients_equal_autograd(model, xp, rng.random((4, 2, 6, 5)))


def test_gradients_with_a_target_of_its_own(xp: ModuleType, rng) -> None:
    model = build(xp, (2, 6, 5), STACKS[2])
    x, target = rng.random((2, 4, 2, 6, 5))
    assert_gradients_equal_autograd(model, xp, x, target)


SIDES = ("natural", "channel", "tiled", "position", "none")


@st.composite
def layers(draw: st.DrawFn, size: tuple[int, ...], groups: int = 1) -> Layer:
    sharing = draw(st.sampled_from(["shared", "tiled", "local"]))
    axes = len(size)
    return Layer(
        filters=2 * groups,
        kernel=[draw(st.integers(1, min(3, n))) for n in size],
        stride=[draw(st.integers(1, 2)) for _ in range(axes)],
        padding=draw(st.sampled_from(["valid", "same", 1])),
        groups=groups,
        activation=draw(st.sampled_from(["tanh", "softplus", "identity"])),
        sharing=sharing,
        tile=[draw(st.integers(1, 2)) for _ in range(axes)] if sharing == "tiled" else None,
        hidden_bias=draw(st.sampled_from(SIDES)),
        visible_bias=draw(st.sampled_from(SIDES)),
        tied=draw(st.booleans()),
    )


def fits(layer: Layer, input_shape: tuple[int, ...]) -> bool:
    """Whether the tile is no larger than the output."""
    try:
        layer.geometry(input_shape)
    except ValueError:
        return False
    return True


@settings(max_examples=60)
@given(data=st.data())
def test_gradients_of_the_whole_family_equal_autograd(xp: ModuleType, data: st.DataObject) -> None:
    axes = data.draw(st.integers(1, 3))
    size = tuple(data.draw(st.integers(4, (9, 6, 4)[axes - 1])) for _ in range(axes))
    groups = data.draw(st.integers(1, 2))
    lower = data.draw(layers(size, groups).filter(lambda layer: fits(layer, (2, *size))))
    code = (lower.filters, *lower.geometry((2, *size)).output)
    upper = data.draw(layers(code[1:], groups).filter(lambda layer: fits(layer, code)))
    model = build(xp, (2, *size), [lower, upper], "identity")
    x = np.random.default_rng(0).standard_normal((3, 2, *size))
    assert_gradients_equal_autograd(model, xp, x)


def test_tied_gradient_is_the_sum_of_an_untied_copys(rng) -> None:
    tied = build(np, (2, 6, 5), STACKS[2])
    copy = build(np, (2, 6, 5), [replace(layer, tied=False) for layer in STACKS[2]])
    for name, array in copy.parameters.items():
        array[...] = tied.parameters[name.replace("decoder_kernel", "kernel")]
    x = rng.random((4, 2, 6, 5))
    loss, gradients = tied.loss_and_gradients(x)
    copy_loss, halves = copy.loss_and_gradients(x)
    assert loss == copy_loss
    for name, gradient in gradients.items():
        expected = halves[name]
        if name.endswith("kernel"):
            expected = expected + halves[name.replace("kernel", "decoder_kernel")]
        np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-16)


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


def test_reconstruct_is_decode_of_encode_and_equals_the_copy(xp: ModuleType, rng) -> None:
    model = build(xp, (2, 6, 5), STACKS[3])
    x = rng.random((4, 2, 6, 5))
    R = model.reconstruct(xp.asarray(x))
    H = model.encode(xp.asarray(x))
    assert H.shape == (4, *model.code_shape)
    assert (model.decode(H) == R).all()
    if xp is np:
        expected = untied.reconstruct(model, untied.parameters_of(model), torch.tensor(x))
        np.testing.assert_allclose(R, expected.detach().numpy(), rtol=1e-12, atol=1e-12)


def test_encode_and_decode_do_not_change_their_arguments(rng) -> None:
    model = build(np, (2, 6, 5), STACKS[2], output_activation="identity")
    x = rng.random((4, 2, 6, 5))
    before = x.copy()
    H = model.encode(x)
    code = H.copy()
    model.decode(H)
    model.loss_and_gradients(x)
    assert (x == before).all()
    assert (code == H).all()


def test_initial_parameters_depend_on_the_seed_alone() -> None:
    models = [convae.Autoencoder((1, 8, 8), STACKS[2], seed=seed) for seed in (7, 7, 8)]
    first, same, other = (model.flat_parameters for model in models)
    assert (first == same).all()
    assert (first != other).any()


@pytest.mark.parametrize(("activation", "gain"), [("relu", 2), ("tanh", 1)])
def test_initial_kernels_have_their_variance(activation: str, gain: float) -> None:
    """64 filters over 16 channels, 5x5, stride 1: fan_in 400, fan_out 1600."""
    model = convae.Autoencoder((16, 12, 12), [Layer(64, 5, padding="same", activation=activation)])
    assert model.parameters["0.kernel"].var() == pytest.approx(gain / 1000, rel=0.03)
    assert not model.parameters["0.hidden_bias"].any()


def test_parameters_are_live_and_cannot_be_replaced(rng) -> None:
    model = build(np, (2, 6, 5), STACKS[2])
    x = rng.random((2, 2, 6, 5))
    before = model.reconstruct(x)
    model.parameters["0.visible_bias"][...] += 1
    assert (model.reconstruct(x) > before).all()
    with pytest.raises(TypeError):
        model.parameters["0.visible_bias"] = np.zeros(2)


def test_gradients_belong_to_the_caller(rng) -> None:
    model = build(np, (2, 6, 5), STACKS[2])
    _, first = model.loss_and_gradients(rng.random((2, 2, 6, 5)))
    kept = {name: array.copy() for name, array in first.items()}
    model.loss_and_gradients(rng.random((2, 2, 6, 5)))
    assert all((first[name] == kept[name]).all() for name in kept)


def test_natural_biases_are_the_textbooks() -> None:
    shapes = {}
    for sharing, tile in (("shared", None), ("tiled", 2), ("local", None)):
        layer = Layer(3, 3, stride=2, padding="same", sharing=sharing, tile=tile)
        model = convae.Autoencoder((1, 8, 8), [layer])
        names = ("kernel", "hidden_bias", "visible_bias")
        shapes[sharing] = [model.parameters[f"0.{name}"].shape for name in names]
    assert shapes == {
        "shared": [(3, 1, 3, 3), (3,), (1,)],
        "tiled": [(3, 2, 2, 1, 3, 3), (3, 2, 2), (1, 4, 4)],
        "local": [(3, 4, 4, 1, 3, 3), (3, 4, 4), (1, 8, 8)],
    }


def model_of(**changes):
    layer = {"filters": 4, "kernel": 3, **changes}
    return lambda: convae.Autoencoder((2, 8, 8), [layer])


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (model_of(stride=0), ValueError, "layers.0.stride: 0 is too small"),
        (model_of(kernel=9), ValueError, "layers.0.kernel: 9 along axis 0 covers 9"),
        (model_of(kernel="all"), ValueError, "layers.0.kernel: 'all' is unknown"),
        (model_of(filters=0), ValueError, "layers.0.filters: 0 is too small"),
        (model_of(activation="rel"), ValueError, "layers.0.activation: 'rel' is unknown; .*relu"),
        (model_of(groups=3), ValueError, "layers.0.groups: 3 does not divide the 4 filters"),
        (model_of(groups=4), ValueError, "layers.0.groups: 4 does not divide the 2 input channels"),
        (model_of(sharing="none"), ValueError, "layers.0.sharing: 'none' is unknown"),
        (model_of(sharing="tiled"), ValueError, "layers.0.tile: None does not go with"),
        (model_of(tile=2), ValueError, "layers.0.tile: 2 does not go with sharing 'shared'"),
        (model_of(sharing="tiled", tile=7), ValueError, "layers.0.tile: 7 .* 6 positions"),
        (model_of(hidden_bias="some"), ValueError, "layers.0.hidden_bias: 'some' is unknown"),
        (model_of(typo=1), TypeError, "layers: .*'typo': 1.* the arguments are filters"),
        (lambda: convae.Autoencoder((2, 8, 8), []), ValueError, "layers: none given"),
        (lambda: convae.Autoencoder((2, 8, 8), [3]), TypeError, "layers: 3 is not a Layer"),
        (
            lambda: convae.Autoencoder((1, 8, 8), STACKS[1][0]),
            TypeError,
            "layers: Layer.* is not a l",
        ),
        (lambda: convae.Autoencoder(8, STACKS[1]), ValueError, "input_shape: 8 is not"),
        (lambda: convae.TrainingStep(None, convae.Adam()), TypeError, "model: None is not a conv"),
        (lambda: convae.Autoencoder((8,), STACKS[1]), ValueError, r"input_shape: \(8,\)"),
        (lambda: convae.Autoencoder((1, 8, 8), STACKS[1], "rel"), ValueError, "output_activation"),
        (lambda: convae.Autoencoder((1, 8, 8), STACKS[1], loss="l1"), ValueError, "loss: 'l1'"),
        (
            lambda: convae.Autoencoder((1, 8, 8), STACKS[1], "tanh", "bce"),
            ValueError,
            "loss: 'bce' .*sigmoid",
        ),
        (lambda: convae.Autoencoder((1, 8, 8), STACKS[1], dtype="int8"), ValueError, "dtype"),
        (lambda: convae.Autoencoder((1, 8, 8), STACKS[1], seed=-1), ValueError, "seed: -1"),
        (lambda: convae.Autoencoder((1, 8, 8), STACKS[1], device="tpu"), ValueError, "device"),
    ],
)
def test_bad_models_are_refused_by_name(call, error, says: str) -> None:
    with pytest.raises(error, match=says):
        call()


@pytest.mark.parametrize(
    ("x", "error", "says"),
    [
        (np.zeros((2, 1, 8, 8), "float64"), TypeError, "x: dtype float64, but the model's is flo"),
        (np.zeros((2, 1, 8, 8), "uint8"), TypeError, r"astype\('float32'\) / 255"),
        (np.zeros((1, 8, 8), "float32"), ValueError, r"x: shape .*\(N, 1, 8, 8\)"),
        (np.zeros((0, 1, 8, 8), "float32"), ValueError, "at least one example"),
        ([[0.0]], TypeError, "x: got builtins.list"),
    ],
)
def test_bad_inputs_are_refused_by_name(x, error, says: str) -> None:
    model = convae.Autoencoder((1, 8, 8), STACKS[1])
    for call in (model.encode, model.reconstruct, model.loss_and_gradients):
        with pytest.raises(error, match=says):
            call(x)
    good = np.zeros((2, 1, 8, 8), "float32")
    with pytest.raises(ValueError, match="target: shape"):
        model.loss_and_gradients(good, good[:1])


def test_asking_for_a_gpu_that_is_not_there_is_an_error() -> None:
    try:
        import cupy
    except ImportError:
        pass
    else:
        if cupy.cuda.is_available():
            pytest.skip("there is a GPU")
    with pytest.raises(RuntimeError, match="'gpu' was asked for, but CuPy"):
        convae.Autoencoder((1, 8, 8), STACKS[1], device="gpu")
    assert convae.Autoencoder((1, 8, 8), STACKS[1], device="auto").device == "cpu"


def test_save_and_load(tmp_path, rng) -> None:
    layers = [
        Layer(3, [3, 2], stride=(2, 1), padding=[[1, 2], [0, 1]], sharing="local"),
        Layer(4, "input", tied=False, activation="identity"),
    ]
    model = convae.Autoencoder((1, 8, 7), layers, output_activation="tanh", seed=3)
    path = tmp_path / "new folder" / "model.safetensors"
    model.save(path)
    x = rng.random((2, 1, 8, 7), dtype="float32")
    loaded = convae.load(path)
    assert (loaded.reconstruct(x) == model.reconstruct(x)).all()
    assert loaded.configuration() == convae.load(path).configuration()
    assert [entry.name for entry in path.parent.iterdir()] == ["model.safetensors"]
    (tmp_path / "best.safetensors").write_bytes(path.read_bytes())
    assert (convae.load(tmp_path).flat_parameters == model.flat_parameters).all()


@pytest.mark.parametrize("examples", [100, 128])
def test_parts_of_a_batch_do_not_show(monkeypatch, rng, examples: int) -> None:
    """A batch done in parts by threads has the loss and the gradients of the whole."""
    from convae.engine import parallel

    model = build(np, (2, 6, 5), STACKS[2], loss="bce")
    x, target = rng.random((2, examples, 2, 6, 5))
    assert len(parallel.parts_of_batch(np, examples, model.macs)) > 1
    loss, gradients = model.loss_and_gradients(x, target)
    monkeypatch.setattr(parallel, "SMALLEST_PART", 1000)
    assert len(parallel.parts_of_batch(np, examples, model.macs)) == 1
    whole_loss, whole = model.loss_and_gradients(x, target)
    assert loss == pytest.approx(whole_loss, rel=1e-13)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, whole[name], rtol=1e-10, atol=1e-16)


@pytest.mark.parametrize("examples", [100, 128])
def test_a_batch_in_parts_repeats_to_the_bit(monkeypatch, rng, examples: int) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from convae.engine import parallel

    x = rng.random((examples, 2, 6, 5), dtype="float32")
    model = convae.Autoencoder((2, 6, 5), STACKS[2])
    results = []
    for workers in (1, 2, 3, 3):
        pool = ThreadPoolExecutor(workers)
        monkeypatch.setattr(parallel, "_pool", lambda pool=pool: pool)
        loss = model.accumulate_gradients(x)
        results.append((float(loss), model.flat_gradients.tobytes()))
        pool.shutdown()
    assert len(set(results)) == 1


def test_copies_and_pickles_are_models_of_their_own(rng) -> None:
    model = build(np, (2, 6, 5), STACKS[2])
    x = rng.random((2, 2, 6, 5))
    R = model.reconstruct(x)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert (twin.reconstruct(x) == R).all()
        twin.parameters["0.kernel"][...] = 0
        assert (model.reconstruct(x) == R).all()
        assert (twin.reconstruct(x) != R).any()


def test_repr_says_what_the_model_is() -> None:
    model = convae.Autoencoder((1, 8, 8), [Layer(4, 3)])
    assert repr(model) == "Autoencoder((1, 8, 8) -> (4, 6, 6), 41 parameters, float32, cpu)"
