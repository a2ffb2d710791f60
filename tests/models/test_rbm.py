"""The restricted Boltzmann machine against enumeration of its states and transitions."""

from __future__ import annotations

from itertools import product
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import convae
from convae import UserError, engine
from convae.engine import to_numpy
from convae.models.penalties import Penalty
from convae.models.rbm import RBM
from tests.helpers import device_of

pytestmark = pytest.mark.usefixtures("divided")

KINDS = [
    {"kernel": 2},
    {"kernel": "input", "visible_bias": "position"},
    {"kernel": 2, "sharing": "tiled", "tile": 2, "padding": "same"},
    {"kernel": 2, "sharing": "local", "visible_bias": "none", "hidden_bias": "none"},
]


def machine(
    xp: ModuleType = np, layer: dict[str, Any] | None = None, shape=(1, 3, 2), **how: Any
) -> RBM:
    """A small machine with strong connections."""
    spec = {"filters": 2, "activation": "sigmoid", **(KINDS[0] if layer is None else layer)}
    model = RBM(shape, [spec], dtype="float64", device=device_of(xp), **how)
    drawn = np.random.default_rng(5).standard_normal(model.flat_parameters.shape)
    model.flat_parameters[...] = xp.asarray(drawn)
    return model


def states(shape: tuple[int, ...]) -> np.ndarray:
    """All states of binary units of a shape."""
    count = int(np.prod(shape))
    return np.array(list(product([0.0, 1.0], repeat=count))).reshape(-1, *shape)


def log_weights(model: RBM, V: np.ndarray) -> np.ndarray:
    """log of the sum over all H of exp(-E(V, H)), by the definition of the energy: (N,)."""
    H = states(model.code_shape)
    (layer,) = model.layers
    arrays = model.parameters
    how = {"padding": layer.spec.padding}
    Z = np.asarray(engine.c(np.ascontiguousarray(arrays["0.kernel"]), V, **how))
    b, a = (
        layer_bias(arrays.get(f"0.{side}_bias"), size)
        for side, size in (("hidden", layer.geometry.output), ("visible", layer.geometry.size))
    )
    hidden = (Z + b).reshape(len(V), -1) @ H.reshape(len(H), -1).T  # (N, states of H)
    if model.output_activation.name == "sigmoid":
        visible = (a * V).reshape(len(V), -1).sum(axis=1)
    else:
        visible = -((V - a) ** 2).reshape(len(V), -1).sum(axis=1) / 2
    return np.logaddexp.reduce(hidden, axis=1) + visible


def layer_bias(b: np.ndarray | None, size: tuple[int, ...]) -> np.ndarray | float:
    """A bias repeated over all positions."""
    if b is None:
        return 0.0
    b = to_numpy(b)
    if b.ndim == 1:
        return b.reshape(-1, *(1 for _ in size))
    return b[
        (slice(None), *np.ix_(*(np.arange(n) % t for n, t in zip(size, b.shape[1:], strict=True))))
    ]


@pytest.mark.parametrize("layer", KINDS)
@pytest.mark.parametrize("output", ["sigmoid", "identity"])
def test_free_energy_sums_over_the_hidden_units(rng, layer: dict[str, Any], output: str) -> None:
    model = machine(layer=layer, output_activation=output)
    V = states(model.input_shape) if output == "sigmoid" else rng.standard_normal((9, 1, 3, 2))
    np.testing.assert_allclose(-model.free_energy(V), log_weights(model, V), rtol=1e-12)


def test_free_energy_on_every_device(xp: ModuleType, rng) -> None:
    x = rng.random((4, 1, 3, 2))
    found = machine(xp).free_energy(xp.asarray(x))
    np.testing.assert_allclose(to_numpy(found), machine().free_energy(x), rtol=1e-12)


def test_partition_function() -> None:
    """Summed over the visible states, or over all pairs of states, it is the same number."""
    model = machine()
    V = states(model.input_shape)
    by_free_energy = np.logaddexp.reduce(-model.free_energy(V))
    assert by_free_energy == pytest.approx(np.logaddexp.reduce(log_weights(model, V)), rel=1e-12)
    # and without connections it is that of independent units
    model.parameters["0.kernel"][...] = 0
    a, b = model.parameters["0.visible_bias"], model.parameters["0.hidden_bias"]
    alone = 6 * np.logaddexp(0, a).sum() + 2 * np.logaddexp(0, b).sum()
    assert np.logaddexp.reduce(-model.free_energy(V)) == pytest.approx(alone, rel=1e-12)


@pytest.mark.parametrize("layer", KINDS)
def test_gradient_of_the_likelihood(rng, layer: dict[str, Any]) -> None:
    """Contrasted with all states by their probabilities, the gradient is the likelihood's."""
    model = machine(layer=layer)
    V, x = states(model.input_shape), states(model.input_shape)[rng.integers(0, 64, 5)]

    def loss() -> float:
        F = -model.free_energy(V)
        return float(model.free_energy(x).mean() + np.logaddexp.reduce(F)) / x[0].size

    F = -model.free_energy(V)
    probabilities = np.exp(F - np.logaddexp.reduce(F))
    total = np.zeros_like(model.flat_gradients)
    for state, probability in zip(V, probabilities, strict=True):
        model.contrast(x, state[None])
        total += probability * model.flat_gradients
    gradients = model.views(total)
    for name, array in model.parameters.items():
        for where in np.ndindex(array.shape):
            before, values = array[where], []
            for shift in (1e-5, -1e-5):
                array[where] = before + shift
                values.append(loss())
            array[where] = before
            difference = (values[0] - values[1]) / 2e-5
            assert gradients[name][where] == pytest.approx(difference, rel=1e-6, abs=1e-9)


def transitions(model: RBM, V: np.ndarray) -> np.ndarray:
    """Probabilities of going from each state to each in a step of Gibbs sampling, enumerated."""
    H = states(model.code_shape)
    P, M = model.encode(V)[:, None], model.decode(H)[:, None]
    of_H = np.where(H == 1, P, 1 - P).reshape(len(V), len(H), -1).prod(axis=2)
    of_V = np.where(V == 1, M, 1 - M).reshape(len(H), len(V), -1).prod(axis=2)
    return of_H @ of_V


def test_gibbs_sampling_leaves_the_distribution_as_it_is() -> None:
    model = machine()
    V = states(model.input_shape)
    F = -model.free_energy(V)
    probabilities = np.exp(F - np.logaddexp.reduce(F))
    np.testing.assert_allclose(probabilities @ transitions(model, V), probabilities, atol=1e-14)


@pytest.mark.parametrize("steps", [1, 2])
def test_contrastive_divergence_has_its_expectation(steps: int) -> None:
    """The mean of many gradients, each of drawn samples, against that of all transitions."""
    model, count = machine(steps=steps), 1500
    V = states(model.input_shape)
    x = V[[3, 41]]
    moves = np.linalg.matrix_power(transitions(model, V), steps)[[3, 41]].mean(axis=0)
    expected = np.zeros_like(model.flat_gradients)
    for state, probability in zip(V, moves, strict=True):
        model.contrast(x, state[None])
        expected += probability * model.flat_gradients
    drawn = []
    for _ in range(count):
        model.accumulate_gradients(x)
        drawn.append(model.flat_gradients.copy())
    error = np.mean(drawn, axis=0) - expected
    deviation = np.std(drawn, axis=0) / np.sqrt(count)
    assert (np.abs(error) <= 4.5 * deviation + 1e-12).all()
    assert np.abs(expected).max() > 10 * deviation.max()  # or anything would pass


def test_samples_of_real_units_have_their_moments() -> None:
    """With strong hidden biases H is known, and V a normal distribution."""
    model = machine(output_activation="identity")
    model.parameters["0.hidden_bias"][...] = 40
    V = model.gibbs(np.zeros((4000, 1, 3, 2)), 2)
    mean = model.decode(np.ones((1, *model.code_shape)))[0]
    np.testing.assert_allclose(V.mean(axis=0), mean, atol=0.08)
    np.testing.assert_allclose(V.std(axis=0), 1, atol=0.05)


def test_persistent_chains_reach_the_model_s_distribution() -> None:
    model = machine(chains=500, steps=1)
    V = states(model.input_shape)
    for _ in range(60):
        model.accumulate_gradients(V[:4])
    F = -model.free_energy(V)
    probabilities = np.exp(F - np.logaddexp.reduce(F))
    mean = np.tensordot(probabilities, V, 1)
    np.testing.assert_allclose(model.state["chains"].mean(axis=0), mean, atol=0.09)
    assert model.state["draws"].tolist() == [60]


def test_pseudo_likelihood() -> None:
    """The mean over many draws of a unit, against all units of all examples."""
    model = machine()
    V = states(model.input_shape)
    x = np.repeat(V[[3, 41, 60]], 400, axis=0)
    losses = []
    for state in V[[3, 41, 60]]:
        for unit in range(state.size):
            other = state.copy()
            other.flat[unit] = 1 - other.flat[unit]
            weights = log_weights(model, np.stack([state, other]))
            losses.append(np.logaddexp.reduce(weights) - weights[0])
    found, R = model.evaluate(x)
    assert float(found) == pytest.approx(np.mean(losses), rel=0.05)
    np.testing.assert_allclose(R, model.reconstruct(x))


@pytest.mark.parametrize("layer", KINDS[:2])
def test_score_matching(rng, layer: dict[str, Any]) -> None:
    """Against autograd's first and second derivatives of the free energy."""
    model = machine(layer=layer, output_activation="identity")
    x = rng.standard_normal((3, 1, 3, 2))
    A = torch.tensor(
        engine.matrix(np.ascontiguousarray(model.parameters["0.kernel"]), (3, 2)).toarray()
    )
    geometry = model.layers[0].geometry
    b = torch.tensor(
        np.broadcast_to(
            layer_bias(model.parameters["0.hidden_bias"], geometry.output), model.code_shape
        ).ravel()
    )
    a = torch.tensor(
        np.broadcast_to(
            layer_bias(model.parameters["0.visible_bias"], geometry.size), (1, 3, 2)
        ).ravel()
    )

    def free(v: torch.Tensor) -> torch.Tensor:
        return ((v - a) ** 2).sum() / 2 - torch.nn.functional.softplus(A @ v + b).sum()

    values = []
    for image in x:
        v = torch.tensor(image.ravel())
        slope = torch.autograd.functional.jacobian(free, v)
        bend = torch.diagonal(torch.autograd.functional.hessian(free, v))
        values.append(float((slope**2 / 2 - bend).mean()))
    assert float(model.evaluate(x)[0]) == pytest.approx(np.mean(values), rel=1e-10)


def test_gradients_on_every_device(xp: ModuleType, rng) -> None:
    """Samples are drawn on the host: the same gradients everywhere."""
    x = (rng.random((6, 1, 3, 2)) < 0.5).astype(float)
    penalty = Penalty(l1=0.1, kl=0.2, target=0.3, weight_decay=0.4)
    J, gradients = machine(xp).loss_and_gradients(xp.asarray(x), penalty=penalty)
    plain_J, plain = machine().loss_and_gradients(x, penalty=penalty)
    assert pytest.approx(plain_J) == J
    for name, array in gradients.items():
        np.testing.assert_allclose(to_numpy(array), plain[name], atol=1e-12)


def test_penalties_are_of_the_data(rng) -> None:
    """Their gradients, by central differences: contrasted with itself, data leave nothing else."""
    model, x = machine(), (rng.random((6, 1, 3, 2)) < 0.5).astype(float)
    penalty = Penalty(l1=0.3, kl=0.2, target=0.3)

    def value() -> float:
        return float(model.contrast(x, x, penalty))

    value()
    gradients = {name: array.copy() for name, array in model.gradients.items()}
    for name in ("0.kernel", "0.hidden_bias"):
        array = model.parameters[name]
        for where in np.ndindex(array.shape):
            before, values = array[where], []
            for shift in (1e-5, -1e-5):
                array[where] = before + shift
                values.append(value())
            array[where] = before
            difference = (values[0] - values[1]) / 2e-5
            assert gradients[name][where] == pytest.approx(difference, rel=1e-5, abs=1e-9)


def test_training_finds_a_distribution(rng) -> None:
    """Two patterns: after training they are much more probable than before, by enumeration."""
    patterns = np.array([[1, 1, 0, 0, 1, 0], [0, 0, 1, 1, 0, 1.0]]).reshape(2, 1, 3, 2)
    layer = {"kernel": "input", "visible_bias": "position", "filters": 4}
    model = RBM((1, 3, 2), [{**layer, "activation": "sigmoid"}], dtype="float64", steps=2)
    step = convae.TrainingStep(model, convae.Adam(learning_rate=0.05))
    V = states((1, 3, 2))

    def probability() -> float:
        F = -model.free_energy(V)
        weights = -model.free_energy(patterns) - np.logaddexp.reduce(F)
        return float(np.exp(weights).sum())

    assert probability() < 0.1
    for _ in range(300):
        step(patterns[rng.integers(0, 2, 32)])
    assert probability() > 0.7
    samples = model.samples(200)
    nearest = np.abs(samples[:, None] - patterns).max(axis=(2, 3, 4)).min(axis=1)
    assert (nearest < 0.5).mean() > 0.7


def test_start_at_the_mean(rng) -> None:
    x = np.full((50, 1, 3, 2), 0.2)
    x[:, :, 0] = 0.9
    layer = {"filters": 1, "kernel": 2, "activation": "sigmoid", "visible_bias": "position"}
    for output, inverse in (("sigmoid", lambda p: np.log(p / (1 - p))), ("identity", lambda p: p)):
        model = RBM((1, 3, 2), [layer], output_activation=output, dtype="float64")
        model.start_from(x)
        np.testing.assert_allclose(model.parameters["0.visible_bias"], inverse(x[0]))


def test_saved_and_loaded(tmp_path, rng) -> None:
    model = machine(steps=3, chains=4)
    model.save(tmp_path / "model.safetensors")
    again = convae.load(tmp_path / "model.safetensors")
    assert isinstance(again, RBM)
    assert (again.steps, again.chains) == (3, 4)
    x = rng.random((2, 1, 3, 2))
    np.testing.assert_array_equal(again.free_energy(x), model.free_energy(x))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"steps": 0}, "steps: 0"),
        ({"chains": -1}, "chains: -1"),
        ({"output_activation": "tanh"}, "output_activation: 'tanh'"),
        ({"storage": "float16"}, "storage: 'float16'"),
        ({"layer": {"kernel": 2, "activation": "relu"}}, "layers.0.activation: 'relu'"),
    ],
)
def test_what_it_refuses(how: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        machine(**how)


def test_batches_and_penalties_that_do_not_fit(rng) -> None:
    model, x = machine(), rng.random((2, 1, 3, 2))
    with pytest.raises(UserError, match="target: a model of the kind rbm"):
        model.loss_and_gradients(x, x.copy())
    with pytest.raises(UserError, match="contractive"):
        model.loss_and_gradients(x, penalty=Penalty(contractive=0.1))
    with pytest.raises(UserError, match="steps: 0"):
        model.samples(2, steps=0)


def test_images_that_are_no_numbers_change_nothing() -> None:
    layer = convae.Layer(filters=3, kernel=3, activation="sigmoid")
    dictionary = convae.Layer(filters=3, kernel=3, activation="identity", hidden_bias="none")
    images = np.full((4, 1, 6, 6), 0.5, "float32")
    images[1, 0, 2, 2] = np.nan
    for model in (convae.RBM((1, 6, 6), [layer]), convae.SparseCoding((1, 6, 6), [dictionary])):
        before = model.flat_parameters.copy()
        with pytest.raises(FloatingPointError, match="not finite"):
            model.start_from(images)
        with pytest.raises(FloatingPointError, match="not finite"):
            convae.TrainingStep(model, convae.Adam(0.01))(images)
        assert (model.flat_parameters == before).all()
