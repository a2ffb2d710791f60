"""Arrays of unusual kinds, and messages that name the likely mistake."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import convae
from convae import engine
from convae.errors import UserError, UserTypeError
from convae.training.optimizers import Adam

K = np.ones((4, 3, 3, 3))
V = np.ones((2, 3, 8, 8))


@pytest.mark.parametrize("examples", [2, 32])
def test_memory_maps_and_subclasses_are_ordinary_arrays(tmp_path, examples: int) -> None:
    x = np.random.default_rng(0).random((examples, 3, 8, 8), dtype="float32")
    mapped = np.memmap(tmp_path / "x", "float32", "w+", shape=x.shape)
    mapped[...] = x
    kernel = K.astype("float32")
    Z = engine.c(kernel, mapped, stride=2, padding="same")
    assert type(Z) is np.ndarray
    assert (engine.c(kernel, x, stride=2, padding="same") == Z).all()
    model = convae.Autoencoder((3, 8, 8), [convae.Layer(4, 3, stride=2, padding="same")])
    assert (model.reconstruct(mapped) == model.reconstruct(x)).all()


@pytest.mark.parametrize("examples", [2, 32])
def test_masked_and_foreign_arrays_are_refused(examples: int) -> None:
    x = np.ones((examples, 3, 8, 8))
    with pytest.raises(UserTypeError, match=r"V: a masked array; expected .*filled"):
        engine.c(K, np.ma.masked_array(x, x > 2))
    with pytest.raises(UserTypeError, match=r"V: dtype >f8 .*byte order; expected .astype"):
        engine.c(K, x.astype(">f8"))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: engine.c(K, np.ones((2, 8, 8, 3))), "V: 8 channels.*channels-last"),
        (lambda: engine.c(V, K), r"kernel: 8 .*are K and V swapped\?"),
        (lambda: engine.c(K, V[0]), r"V: 8 channels.*single image.*V\[None\]"),
        (lambda: engine.c(K, V, padding=None), "padding: None; expected 'valid'"),
        (lambda: engine.c(K, V, padding=True), "padding: True; expected 'valid'"),
        (
            lambda: convae.Autoencoder((3, 8, 8), [{"filters": 2, "kernel": 3, "strides": 2}]),
            "layers: 'strides' is not an argument of a layer; did you mean 'stride'",
        ),
        (
            lambda: convae.Autoencoder((3, 8, 8), [convae.Layer(2, 3)], loss=["mse"]),
            r"loss: \['mse'\] is unknown; expected one of mse, bce",
        ),
    ],
)
def test_mistakes_are_named(call, says: str) -> None:
    with pytest.raises(UserError, match=says):
        call()


@pytest.mark.parametrize("name", ["stride", "dilation"])
def test_truth_values_are_no_numbers(name: str) -> None:
    with pytest.raises(UserTypeError, match=f"{name}: True; expected an integer"):
        engine.c(K, V, **{name: True})


def test_without_a_compiler_numpy_computes() -> None:
    script = (
        "import numpy as np, sys, convae\n"
        "model = convae.Autoencoder((1, 8, 8), [convae.Layer(4, 3, padding='same')])\n"
        "x = np.random.default_rng(0).random((64, 1, 8, 8), dtype='float32')\n"
        "print(model.loss_and_gradients(x)[0], 'numba' in sys.modules)"
    )
    found = []
    for disabled in ("0", "1"):
        environment = {**os.environ, "NUMBA_DISABLE_JIT": disabled}
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found.append(done.stdout.split())
    assert float(found[0][0]) == pytest.approx(float(found[1][0]), rel=1e-6)
    assert [numba for _, numba in found] == ["True", "False"]


def test_an_impossible_size_is_refused_at_once() -> None:
    """With a stride of ten million there are as many sizes, which nobody wants listed."""
    with pytest.raises(UserError, match=r"size: .*expected 1 to 10000000") as caught:
        engine.h(np.ones((1, 1, 1)), np.ones((1, 1, 1)), stride=10_000_000)
    assert len(str(caught.value)) < 200


def test_numpy_values_are_normalised_and_can_be_saved(tmp_path) -> None:
    sizes = [np.int64(3), 3]
    layer = convae.Layer(np.int32(4), sizes, stride=np.array([2, 2]), padding=[np.int64(1), 1])
    model = convae.Autoencoder(np.array([1, 9, 9]), [layer], dtype=np.float32)
    sizes[0] = 5
    assert layer.kernel == (3, 3)
    model.save(tmp_path / "m.safetensors")
    again = convae.load(tmp_path / "m.safetensors")
    assert again.configuration() == model.configuration()
    assert convae.Autoencoder((1, 9, 9), [layer], dtype=np.dtype("f8")).dtype == "float64"


def test_an_optimizer_of_another_model_is_refused() -> None:
    models = [convae.Autoencoder((1, 8, 8), [convae.Layer(2, 3)], seed=n) for n in range(2)]
    optimizer = Adam()
    convae.TrainingStep(models[0], optimizer)
    convae.TrainingStep(models[0], optimizer)
    with pytest.raises(UserError, match="optimizer: it already serves another model"):
        convae.TrainingStep(models[1], optimizer)
    optimizer.update(np.zeros(3, "float32"), np.ones(3, "float32"))
    with pytest.raises(UserError, match="served 3 parameters of float32"):
        optimizer.update(np.zeros(3), np.ones(3))


def test_a_step_that_diverges_leaves_the_parameters_as_they_were() -> None:
    model = convae.Autoencoder((1, 8, 8), [convae.Layer(2, 3)], output_activation="identity")
    step = convae.TrainingStep(model, convae.SGD(learning_rate=0.1))
    x = np.random.default_rng(0).random((4, 1, 8, 8), dtype="float32")
    step(x)
    before = model.flat_parameters.copy()
    x[2, 0, 3, 3] = np.nan
    with pytest.raises(FloatingPointError, match=r"loss is nan.*parameters are unchanged"):
        step(x)
    assert (model.flat_parameters == before).all()


def test_relus_gradient_at_infinity_agrees_between_paths() -> None:
    from convae.models.activations import RELU

    H = np.full((1, 1, 1, 32), np.inf, "float32").transpose(3, 0, 1, 2)
    backends = engine.backend_for("cpu"), engine.ArrayBackend()
    found = [backend.activation_gradient(np.ones_like(H), H, RELU) for backend in backends]
    assert (found[0] == 1).all()
    assert (found[1] == 1).all()
