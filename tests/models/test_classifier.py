"""The classifier against PyTorch's autograd, and what it learns."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import convae
from convae import UserError
from convae.engine import to_numpy
from convae.models.classifier import Classifier
from convae.models.penalties import Penalty
from tests.helpers import device_of

pytestmark = pytest.mark.usefixtures("divided")

LAYERS = [
    {"filters": 4, "kernel": 3, "stride": 2, "padding": "same"},
    {"filters": 6, "kernel": 2, "activation": "tanh"},
    {"filters": 5, "kernel": "input", "activation": "identity"},
]


def classifier(xp: ModuleType = np, **how: Any) -> Classifier:
    how = {"dtype": "float64", "layers": LAYERS} | how
    return Classifier((2, 7, 6), device=device_of(xp), **how)


def in_torch(model: Classifier, x: np.ndarray, labels: np.ndarray) -> tuple[torch.Tensor, dict]:
    arrays = {
        name: torch.tensor(np.ascontiguousarray(to_numpy(array)), requires_grad=True)
        for name, array in model.parameters.items()
    }
    conv = torch.nn.functional.conv2d
    # same padding of 7x6 by a kernel of 3 with stride 2: 1 before and after; then 4x3
    padding = model.layers[0].geometry.padding
    (top, bottom), (left, right) = padding
    V = torch.nn.functional.pad(torch.tensor(x), (left, right, top, bottom))
    H = torch.relu(conv(V, arrays["0.kernel"], arrays["0.hidden_bias"], stride=2))
    H = torch.tanh(conv(H, arrays["1.kernel"], arrays["1.hidden_bias"]))
    Z = conv(H, arrays["2.kernel"], arrays["2.hidden_bias"])[:, :, 0, 0]
    return torch.nn.functional.cross_entropy(Z, torch.tensor(labels)), arrays


def test_gradients_against_autograd(xp: ModuleType, rng) -> None:
    model = classifier(xp)
    x, labels = rng.random((9, 2, 7, 6)), rng.integers(0, 5, 9)
    penalty = Penalty(weight_decay=0.1)
    J, gradients = model.loss_and_gradients(xp.asarray(x), xp.asarray(labels), penalty)
    loss, arrays = in_torch(model, x, labels)
    loss = loss + sum(0.05 * (K * K).sum() for name, K in arrays.items() if "kernel" in name)
    loss.backward()
    assert pytest.approx(float(loss.detach()), rel=1e-12) == J
    assert set(gradients) == {f"{n}.{name}" for n in range(3) for name in ("kernel", "hidden_bias")}
    for name, array in gradients.items():
        np.testing.assert_allclose(to_numpy(array), arrays[name].grad.numpy(), atol=1e-12)


def test_long_batches_are_those_of_their_parts(rng) -> None:
    model = classifier()
    x, labels = rng.random((300, 2, 7, 6)), rng.integers(0, 5, 300)
    J, gradients = model.loss_and_gradients(x, labels)
    loss, arrays = in_torch(model, x, labels)
    loss.backward()
    assert pytest.approx(float(loss.detach()), rel=1e-12) == J
    np.testing.assert_allclose(gradients["0.kernel"], arrays["0.kernel"].grad.numpy(), atol=1e-12)


def test_evaluation_and_predictions(xp: ModuleType, rng) -> None:
    model = classifier(xp)
    x, labels = xp.asarray(rng.random((9, 2, 7, 6))), xp.asarray(rng.integers(0, 5, 9))
    J, P = model.evaluate(x, labels)
    assert float(J) == pytest.approx(model.loss_and_gradients(x, labels)[0])
    np.testing.assert_allclose(to_numpy(P.sum(axis=1)), 1)
    np.testing.assert_array_equal(to_numpy(P), to_numpy(model.probabilities(x)))
    np.testing.assert_array_equal(to_numpy(P.argmax(axis=1)), to_numpy(model.predict(x)))


def test_large_scores_do_not_overflow() -> None:
    layers = [{"filters": 3, "kernel": "input", "activation": "identity"}]
    model = classifier(layers=layers)
    model.parameters["0.hidden_bias"][...] = [1e4, 0, -1e4]
    x, labels = np.zeros((1, 2, 7, 6)), np.array([2])
    J, gradients = model.loss_and_gradients(x, labels)
    assert pytest.approx(2e4) == J
    np.testing.assert_allclose(gradients["0.hidden_bias"], [1, 0, -1])


def test_it_learns(rng) -> None:
    x, labels = rng.random((60, 2, 7, 6)), rng.integers(0, 5, 60)
    x[np.arange(60), 0, labels, 0] += 3
    model = classifier()
    step = convae.TrainingStep(model, convae.Adam(learning_rate=1e-2))
    for _ in range(60):
        step(x, labels)
    assert (model.predict(x) == labels).mean() > 0.95


def test_the_last_layer_alone(rng) -> None:
    """Whatever the optimizer does, as AdamW's decay would, the others stay as they are."""
    model = classifier(trained="last")
    model.freeze()
    before = {name: array.copy() for name, array in model.parameters.items()}
    x, labels = rng.random((20, 2, 7, 6)), rng.integers(0, 5, 20)
    _, gradients = model.loss_and_gradients(x, labels)
    whole = classifier().loss_and_gradients(x, labels)[1]
    np.testing.assert_allclose(gradients["2.kernel"], whole["2.kernel"], atol=1e-14)
    assert not gradients["0.kernel"].any()
    step = convae.TrainingStep(model, convae.AdamW(learning_rate=0.1, weight_decay=0.5))
    step(x, labels)
    for name, array in model.parameters.items():
        assert (array == before[name]).all() == (not name.startswith("2."))


def test_saved_and_loaded(tmp_path, rng) -> None:
    model = classifier(trained="last")
    model.save(tmp_path / "model.safetensors")
    again = convae.load(tmp_path / "model.safetensors")
    assert isinstance(again, Classifier)
    assert again.trained == "last"
    x = rng.random((3, 2, 7, 6))
    np.testing.assert_array_equal(again.probabilities(x), model.probabilities(x))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"trained": "some"}, "trained: 'some' is unknown"),
        ({"output_activation": "sigmoid"}, "output_activation: 'sigmoid'"),
        ({"layers": LAYERS[:2]}, "layers.1: a code of"),
        ({"layers": [{"filters": 5, "kernel": "input"}]}, "layers.0: a code of .* through relu"),
        ({"layers": []}, "layers: none given"),
        ({"layers": 3}, "layers: 3 is not a list"),
    ],
)
def test_what_it_refuses(how: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        classifier(**how)


def test_batches_that_do_not_fit(rng) -> None:
    model, x = classifier(), rng.random((3, 2, 7, 6))
    for target, message in (
        (None, "target: none given"),
        (np.array([0.0, 1, 2]), "target: float64 of numpy; expected integers"),
        (np.array([0, 1]), r"target: shape \(2,\), but x has 3"),
        (np.array([0, 1, 5]), "target: 5 is no class; expected 0 to 4"),
        (np.array([0, -1, 2]), "target: -1 is no class"),
    ):
        with pytest.raises(UserError, match=message):
            model.loss_and_gradients(x, target)
    with pytest.raises(UserError, match="kl: a model of the kind classifier has no such term"):
        model.loss_and_gradients(x, np.array([0, 1, 2]), Penalty(kl=0.1))
    with pytest.raises(UserError, match="has no decoder"):
        model.decode(model.encode(x))
