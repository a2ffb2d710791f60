"""The estimators: scikit-learn's own checks, and what they make of signals, pictures, volumes."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import convae
from convae.configuration import SCORES
from convae.errors import UserError, UserTypeError

FEW = convae.Layer(filters=4, kernel="input", activation="identity", visible_bias="position")


@parametrize_with_checks(
    [convae.AnomalyDetector(epochs=3), convae.AutoencoderTransformer(epochs=3)]
)
def test_it_is_an_estimator(estimator, check) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    found = load_digits()
    return found.data, found.target


@pytest.fixture(scope="module")
def zeros(digits) -> convae.AnomalyDetector:
    """A detector that has seen every second zero."""
    X, y = digits
    return convae.AnomalyDetector((1, 8, 8)).fit(X[y == 0][::2])


def test_other_digits_are_anomalies(digits, zeros) -> None:
    X, y = digits
    rest = np.concatenate([X[y == 0][1::2], X[y > 0]])
    is_zero = np.arange(len(rest)) < len(X[y == 0][1::2])
    assert roc_auc_score(is_zero, zeros.score_samples(rest)) > 0.98
    found = zeros.predict(rest)
    assert (found[is_zero] == 1).mean() > 0.85
    assert (found[~is_zero] == -1).mean() > 0.85


def test_scores_are_those_of_scaled_values(digits) -> None:
    X, y = digits
    detector = convae.AnomalyDetector((1, 8, 8), epochs=2, criterion="squared_error")
    detector.fit(X[y == 0])
    x = ((X[:5] - detector.low_) / detector.range_).astype("float32").reshape(5, 1, 8, 8)
    assert (detector.low_, detector.range_) == (0, 16)
    errors = ((x - detector.model_.reconstruct(x)) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(detector.score_samples(X[:5]), -errors, rtol=1e-5)
    expected = -errors - detector.offset_
    np.testing.assert_allclose(detector.decision_function(X[:5]), expected, rtol=1e-5)


@pytest.mark.parametrize("criterion", SCORES)
def test_all_scores(digits, criterion: str) -> None:
    X, y = digits
    detector = convae.AnomalyDetector((1, 8, 8), epochs=20, criterion=criterion)
    detector.fit(X[y == 0][::2])
    assert roc_auc_score(y == 0, detector.score_samples(X)) > 0.8


def test_an_unknown_score_is_refused(digits) -> None:
    with pytest.raises(UserError, match="criterion: 'error' is unknown; expected one of squared"):
        convae.AnomalyDetector(criterion="error").fit(digits[0])


@pytest.mark.parametrize("quantile", [0.5, 1.0])
def test_the_threshold_is_of_examples_that_were_held_out(rng, quantile: float) -> None:
    """A model with as many numbers in its code as an example has fits only what it has seen."""
    X = rng.standard_normal((40, 16))
    detector = convae.AnomalyDetector(
        layers=[FEW], epochs=1, validation=0.5, quantile=quantile
    ).fit(X)
    accepted = (detector.predict(X) == 1).mean()
    fewest = 0.5 * quantile  # of those held out; the others are no worse on average
    assert fewest <= accepted
    assert accepted < 1 or quantile == 1


@pytest.mark.parametrize("shape", [(1, 30), (3, 40), (2, 6, 7), (1, 5, 6, 4)])
def test_examples_have_one_to_three_axes(rng, shape: tuple[int, ...]) -> None:
    X = rng.standard_normal((30, *shape)) * 5 - 20
    transformer = convae.AutoencoderTransformer(code=4, epochs=2)
    codes = transformer.fit_transform(X)
    assert transformer.model_.input_shape == shape
    assert codes.shape == (30, 4)
    R = transformer.inverse_transform(codes)
    assert R.shape == X.shape
    flat = convae.AutoencoderTransformer(shape, code=4, epochs=2)
    assert (flat.fit_transform(X.reshape(30, -1)) == codes).all()
    assert (flat.inverse_transform(codes) == R.reshape(30, -1)).all()


def test_reconstructions_are_in_the_range_of_the_data(digits) -> None:
    X = digits[0]
    transformer = convae.AutoencoderTransformer((1, 8, 8), code=16, epochs=10).fit(X)
    R = transformer.inverse_transform(transformer.transform(X))
    assert ((R - X) ** 2).mean() < 0.1 * X.var()


def test_a_copy_by_pickle_computes_the_same(digits, zeros) -> None:
    X = digits[0][:20]
    copy = pickle.loads(pickle.dumps(zeros))
    assert (copy.score_samples(X) == zeros.score_samples(X)).all()
    assert (copy.model_.encode(np.zeros((1, 1, 8, 8), "f4")) != 0).any()


def test_it_stands_in_a_pipeline(digits) -> None:
    X, y = digits
    codes = convae.AutoencoderTransformer((1, 8, 8), code=16, epochs=3)
    line = make_pipeline(StandardScaler(), codes, LogisticRegression(max_iter=1000))
    line.fit(X[:1200], y[:1200])
    assert line.score(X[1200:], y[1200:]) > 0.75
    assert list(line[:-1].get_feature_names_out())[:1] == ["autoencodertransformer0"]


def test_the_seed_decides_everything(rng) -> None:
    X = rng.standard_normal((40, 12))

    def scores(seed: int | np.random.RandomState) -> np.ndarray:
        detector = convae.AnomalyDetector(epochs=2, random_state=seed)
        return clone(detector).fit(X).score_samples(X)

    assert (scores(3) == scores(3)).all()
    assert (scores(3) != scores(4)).any()
    assert (scores(np.random.RandomState(3)) == scores(3)).all()


def test_what_has_one_value_only_is_reconstructed() -> None:
    detector = convae.AnomalyDetector(epochs=2).fit(np.full((10, 6), 7.0))
    np.testing.assert_allclose(detector.score_samples(np.full((2, 6), 7.0)), 0, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (1, 7, 8)}, "shape: (1, 7, 8) has 56 numbers, and an example of X 64"),
        ({"shape": "abc"}, "shape: 'abc' is not"),
        ({"shape": (64,)}, "input_shape: (64,) is not (channels, *positions)"),
        ({"code": 0}, "code: 0 is out of range"),
        ({"code": 65}, "code: 65 is out of range"),
        ({"validation": float("nan")}, "validation: nan is out of range"),
        ({"quantile": 1.5}, "quantile: 1.5 is out of range"),
        ({"quantile": float("nan")}, "quantile: nan is out of range"),
        ({"epochs": 0}, "epochs: 0 is out of range"),
        ({"batch_size": "many"}, "batch_size: 'many' is not an integer"),
        ({"learning_rate": -1}, "learning_rate: -1 is out of range"),
        ({"layers": [3]}, "layers: 3 is not a convae Layer"),
        ({"device": "abacus"}, "device: 'abacus' is unknown"),
    ],
)
def test_mistakes_are_named(digits, arguments: dict, message: str) -> None:
    with pytest.raises((UserError, TypeError)) as raised:
        convae.AnomalyDetector(**arguments).fit(digits[0][:20])
    assert str(raised.value).startswith(message)


def test_other_examples_than_those_of_fit_are_refused(rng, zeros) -> None:
    detector = convae.AutoencoderTransformer(code=2, epochs=1).fit(rng.random((9, 2, 4, 4)))
    with pytest.raises(UserError, match=r"X: examples are \(2, 4, 5\); fit was given \(2, 4, 4\)"):
        detector.transform(rng.random((9, 2, 4, 5)))
    with pytest.raises(UserError, match=r"X: codes of 3 numbers; expected 2 numbers"):
        detector.inverse_transform(rng.random((9, 3)))
    with pytest.raises(UserError, match="too far apart"):
        convae.AnomalyDetector().fit([[1e308, -1e308], [0, 0]])


@pytest.mark.parametrize(
    "bad", [{"code": 99}, {"learning_rate": 1e30}, {"shape": (3,)}, {"layers": []}]
)
def test_a_fit_that_fails_leaves_everything_as_it_was(rng, bad) -> None:
    X = rng.random((60, 16))
    detector = convae.AnomalyDetector(epochs=2).fit(X)
    before = detector.decision_function(X)
    detector.set_params(**bad)
    with pytest.raises((UserError, UserTypeError)):
        detector.fit(1000 * X)
    np.testing.assert_array_equal(detector.decision_function(X), before)
    fresh = convae.AnomalyDetector(epochs=2, **bad)
    with pytest.raises((UserError, UserTypeError)):
        fresh.fit(X)
    with pytest.raises(NotFittedError):
        fresh.predict(X)


def test_a_criterion_counts_from_the_next_fit_on(rng) -> None:
    X = rng.random((60, 16))
    detector = convae.AnomalyDetector(epochs=2, criterion="squared_error").fit(X)
    before = detector.predict(X)
    detector.set_params(criterion="combined")
    np.testing.assert_array_equal(detector.predict(X), before)
    assert detector.criterion_ == "squared_error"


@pytest.mark.parametrize("far", [1e300, -1e15])
def test_values_that_would_overflow_are_refused(rng, far: float) -> None:
    X = rng.random((60, 16))
    bad = X[:3].copy()
    bad[1, 2] = far
    for estimator in (convae.AnomalyDetector(epochs=1), convae.AutoencoderTransformer(epochs=1)):
        estimator.fit(X)
        use = getattr(estimator, "predict", None) or estimator.transform
        with pytest.raises(UserError, match=re.escape(f"X: the value {far:.4g} is too far")):
            use(bad)
        assert np.isfinite(use(np.where(bad == far, 1e6, bad))).all()


def test_codes_of_values_far_from_zero_come_back(rng) -> None:
    X = 1e8 + rng.random((60, 16))
    transformer = convae.AutoencoderTransformer(epochs=2, layers=[FEW]).fit(X)
    back = transformer.inverse_transform(transformer.transform(X))
    assert len(np.unique(back)) > 100
    assert np.abs(back - X).max() < 2


def test_channels_last_are_noticed(rng) -> None:
    X = rng.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    with pytest.raises(UserError, match=r"channels last.*transpose\(0, 3, 1, 2\)"):
        convae.AnomalyDetector(epochs=1).fit(X)
    fitted = convae.AnomalyDetector(epochs=1).fit(X.transpose(0, 3, 1, 2))
    assert fitted.model_.input_shape == (3, 8, 8)
    assert convae.AnomalyDetector((8, 8, 3), epochs=1).fit(X).model_.input_shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"layers": 5}, "layers: 5"),
        ({"layers": FEW}, "layers: Layer"),
        ({"shape": ()}, "shape: is empty"),
        ({"device": None}, "device: None"),
    ],
)
def test_arguments_are_named(rng, bad, message: str) -> None:
    with pytest.raises((UserError, UserTypeError), match=message):
        convae.AnomalyDetector(epochs=1, **bad).fit(rng.random((20, 16)))


def test_shapes_may_be_arrays(rng) -> None:
    fitted = convae.AnomalyDetector(np.array([1, 4, 4]), epochs=1).fit(rng.random((20, 16)))
    assert fitted.model_.input_shape == (1, 4, 4)
