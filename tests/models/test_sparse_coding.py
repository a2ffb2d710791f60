"""Sparse codes against scikit-learn's lasso on explicit matrices, and the dictionary's gradient."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Lasso

import convae
from convae import UserError, engine
from convae.engine import to_numpy
from convae.models.penalties import Penalty
from convae.models.sparse_coding import SparseCoding
from tests.helpers import device_of

pytestmark = pytest.mark.usefixtures("divided")

GEOMETRIES = [
    {"kernel": 4, "padding": [[0, 3], [0, 3]], "padding_mode": "circular"},
    {"kernel": 3, "padding": "full"},
    {"kernel": 3, "stride": 2, "padding": "same"},
    {"kernel": 3, "padding": "full", "sharing": "tiled", "tile": 2},
    {"kernel": 2, "sharing": "local"},
]


def layer(**how: Any) -> dict[str, Any]:
    plain = {"filters": 5, "activation": "identity", "hidden_bias": "none", "visible_bias": "none"}
    return plain | how


def coder(xp: ModuleType = np, geometry: dict[str, Any] | None = None, **how: Any) -> SparseCoding:
    exact: dict[str, Any] = {
        "sparsity": 0.05,
        "iterations": 5000,
        "tolerance": 1e-9,
        "dtype": "float64",
    }
    layers = [layer(**(GEOMETRIES[0] if geometry is None else geometry))]
    return SparseCoding((1, 7, 6), layers, device=device_of(xp), **(exact | how))


def lasso(model: SparseCoding, x: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The least value of the objective for one image, by coordinate descent on the matrix."""
    spec = model.layers[0].spec
    how = {"stride": spec.stride, "padding": spec.padding, "padding_mode": spec.padding_mode}
    A = to_numpy(
        engine.matrix(to_numpy(model.parameters["0.kernel"]), x.shape[1:], **how).toarray()
    )
    if weights is not None:
        A = A * weights.ravel()[:, None]
    target = x.ravel()
    fitted = Lasso(
        alpha=model.lasso.sparsity / target.size,
        fit_intercept=False,
        tol=1e-13,
        max_iter=1_000_000,
        positive=model.lasso.nonnegative,
    ).fit(A.T, target)
    return float(
        ((A.T @ fitted.coef_ - target) ** 2).sum() / 2
        + model.lasso.sparsity * np.abs(fitted.coef_).sum()
    )


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("how", [{}, {"nonnegative": True}, {"backtracking": True}])
def test_codes_reach_the_lasso_s_minimum(
    xp: ModuleType, rng, geometry: dict[str, Any], how: dict[str, Any]
) -> None:
    model = coder(xp, geometry, **how)
    x = rng.random((2, 1, 7, 6))
    H = model.encode(xp.asarray(x))
    found = to_numpy(model.objective_of(xp.asarray(x), H))
    np.testing.assert_allclose(found, [lasso(model, image) for image in x], rtol=1e-7)
    assert float((H == 0).mean()) > 0.3
    if model.lasso.nonnegative:
        assert float(H.min()) >= 0


def test_weights_multiply_the_sparsity(rng) -> None:
    model, x = coder(), rng.random((1, 1, 7, 6))
    weights = rng.random((1, *model.code_shape)) + 0.5
    H = model.encode(x, weights=weights)
    # |w H|_1 of H is |H'|_1 of H' = w H, whose matrix has its rows divided by w
    expected = lasso(model, x[0], 1 / weights[0])
    assert model.objective_of(x, H, weights=weights)[0] == pytest.approx(expected, rel=1e-7)


def test_missing_pixels_are_filled_in(rng) -> None:
    """What lies under the mask plays no role; an image of few atoms is found again."""
    model = coder(sparsity=1e-4)
    code = np.zeros((1, *model.code_shape))
    code[0, [0, 2, 4], [1, 3, 5], [2, 4, 0]] = 1
    x = model.decode(code)
    mask = (rng.random(x.shape) < 0.8).astype(float)
    spoilt = np.where(mask > 0, x, np.nan)
    H = model.encode(spoilt, mask)
    np.testing.assert_array_equal(H, model.encode(np.where(mask > 0, x, 9), mask))
    np.testing.assert_allclose(model.decode(H), x, atol=0.02)
    ones = model.encode(x, np.ones_like(x))
    np.testing.assert_allclose(ones, model.encode(x), atol=1e-12)


def test_a_mask_s_fractions_weigh_the_errors(rng) -> None:
    """Against the gradient's condition: |c(K, M E)| is at most the sparsity."""
    for backtracking in (False, True):
        model, x = coder(backtracking=backtracking), rng.random((1, 1, 7, 6))
        mask = rng.random(x.shape)
        H = model.encode(x, mask)
        (one,) = model.layers
        G = one.c(model.parameters["0.kernel"], mask * (model.decode(H) - x))
        assert np.abs(G).max() <= model.lasso.sparsity * (1 + 1e-6)
        np.testing.assert_allclose(G[H != 0], -0.05 * np.sign(H[H != 0]), rtol=1e-4)


def test_examples_do_not_depend_on_each_other(rng) -> None:
    model, x = coder(tolerance=0.0, iterations=30), rng.random((9, 1, 7, 6))
    together = model.encode(x)
    for image, H in zip(x, together, strict=True):
        np.testing.assert_allclose(model.encode(image[None])[0], H, atol=1e-10)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_gradients_are_those_of_the_minimum(rng, geometry: dict[str, Any]) -> None:
    """Central differences of the loss, which is minimised anew on both sides."""
    model = coder(
        geometry={**geometry, "visible_bias": "channel"}, tolerance=1e-12, iterations=20000
    )
    x = rng.random((2, 1, 7, 6))
    penalty = Penalty(weight_decay=0.1)
    _, gradients = model.loss_and_gradients(x, penalty=penalty)
    for name, array in model.parameters.items():
        where = tuple(rng.integers(n) for n in array.shape)
        before, values = array[where], []
        for shift in (1e-4, -1e-4):
            array[where] = before + shift
            values.append(model.loss_and_gradients(x, penalty=penalty)[0])
        array[where] = before
        difference = (values[0] - values[1]) / 2e-4
        assert gradients[name][where] == pytest.approx(difference, rel=1e-3, abs=1e-7)


def test_filters_have_a_norm_of_at_most_1(xp: ModuleType, rng) -> None:
    model = coder(xp, GEOMETRIES[3])
    K = model.parameters["0.kernel"]
    K[...] = xp.asarray(rng.standard_normal(K.shape))
    K[0] *= 1e-3
    short = to_numpy(K[0]).copy()
    model.constrain()
    norms = np.sqrt((to_numpy(K) ** 2).sum(axis=(-1, -2, -3)))
    np.testing.assert_allclose(norms[1:], 1)
    np.testing.assert_array_equal(to_numpy(K[0]), short)


def test_a_dictionary_is_learned(rng) -> None:
    """Atoms that made the images are found again, and every update keeps their norm."""
    how = {"geometry": {"kernel": 3, "padding": "full"}, "sparsity": 0.02, "tolerance": 1e-3}
    truth = coder(seed=3, **how)
    truth.start_from(rng.standard_normal((20, 1, 7, 6)))
    code = np.abs(rng.standard_normal((200, *truth.code_shape))) * (
        rng.random((200, *truth.code_shape)) < 0.02
    )
    x = truth.decode(code)
    model, least = coder(iterations=50, **how), float(truth.evaluate(x)[0])
    optimizer = convae.SGD(learning_rate=30, momentum=0.9, nesterov=True)
    step = convae.TrainingStep(model, optimizer)
    assert float(model.evaluate(x)[0]) > 3 * least
    for part in 20 * np.array_split(x, 8):
        step(part)
    assert float(model.evaluate(x)[0]) < 1.15 * least
    K = model.parameters["0.kernel"]
    assert float((K * K).sum(axis=(1, 2, 3)).max()) <= 1 + 1e-12


def test_it_starts_with_patches(rng) -> None:
    model = SparseCoding((4, 5), [layer(kernel=3, groups=2, filters=6, padding="full")])
    x = rng.random((8, 4, 5)).astype("float32")
    model.start_from(x)
    for index, K in enumerate(model.parameters["0.kernel"]):
        channels = x[:, 2 * (index // 3) : 2 * (index // 3) + 2]
        windows = np.lib.stride_tricks.sliding_window_view(channels, 3, axis=2)
        patches = windows.transpose(0, 2, 1, 3).reshape(-1, 6)
        patches = patches - patches.mean(axis=1, keepdims=True)
        patches /= np.linalg.norm(patches, axis=1, keepdims=True)
        assert float((patches @ K.ravel()).max()) > 0.99


def test_saved_and_loaded(tmp_path, rng) -> None:
    model = coder()
    model.save(tmp_path / "model.safetensors")
    again = convae.load(tmp_path / "model.safetensors")
    assert isinstance(again, SparseCoding)
    assert again.configuration() == model.configuration()
    x = rng.random((1, 1, 7, 6))
    np.testing.assert_array_equal(again.encode(x), model.encode(x))


def test_no_images_have_no_codes() -> None:
    assert coder().encode(np.empty((0, 1, 7, 6))).shape == (0, 5, 7, 6)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"sparsity": -1}, "sparsity: -1"),
        ({"sparsity": float("nan")}, "sparsity: nan"),
        ({"iterations": 0}, "iterations: 0"),
        ({"tolerance": -0.1}, "tolerance"),
        ({"nonnegative": 1}, "nonnegative: 1 is neither"),
        ({"backtracking": "no"}, "backtracking: 'no' is neither"),
        ({"output_activation": "sigmoid"}, "output_activation: 'sigmoid'"),
        ({"storage": "float16"}, "storage: 'float16'"),
        ({"geometry": {"kernel": 3, "activation": "relu"}}, "layers.0.activation: 'relu'"),
        ({"geometry": {"kernel": 3, "tied": False}}, "layers.0.tied"),
        ({"geometry": {"kernel": 3, "hidden_bias": "channel"}}, "layers.0.hidden_bias"),
    ],
)
def test_what_it_refuses(how: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        coder(**how)


def test_several_layers_are_refused() -> None:
    with pytest.raises(UserError, match="layers: 2 of them"):
        SparseCoding((1, 7, 6), [layer(kernel=3), layer(kernel=2)])


def test_batches_and_factors_that_do_not_fit(rng) -> None:
    model, x = coder(), rng.random((2, 1, 7, 6))
    for arguments, message in (
        ((x, x[:1]), "mask: 1 of them, but x has 2"),
        ((x, 2 * np.ones_like(x)), "mask: has values that are not at least 0 and at most 1"),
        ((x, np.full_like(x, np.nan)), "mask: has values"),
        ((x, None, -np.ones((2, *model.code_shape))), "weights: has values"),
        ((x.astype("float32"),), "x: dtype float32"),
    ):
        with pytest.raises(UserError, match=message):
            model.encode(*arguments)
    with pytest.raises(UserError, match="target: a model of the kind sparse_coding"):
        model.loss_and_gradients(x, x.copy())
    with pytest.raises(UserError, match="l1: a model of the kind sparse_coding has no such term"):
        model.loss_and_gradients(x, penalty=Penalty(l1=0.1))
