"""Scores and what is made of them, against numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

import convae
from convae.data.splits import InMemory
from convae.errors import UserError
from convae.report import anomaly
from convae.report.anomaly import Detector, judge, quantiles
from convae.report.quality import squared_errors
from convae.report.scores import SCORES


def test_errors_are_means_over_each_image() -> None:
    x = np.zeros((2, 1, 2, 2), "float32")
    R = np.array([[[[0, 0], [0, 1]]], [[[0.5, 0.5], [0.5, 0.5]]]], "float32")
    np.testing.assert_allclose(squared_errors(x, R), [0.25, 0.25])


def pixels(rng, count: int, side: int = 6) -> InMemory:
    """Images of one kind: a gradient of random strength, with a little noise."""
    ramp = np.linspace(0, 1, side * side).reshape(side, side)
    images = (
        100
        + rng.uniform(20, 120, (count, 1, 1, 1)) * ramp
        + rng.normal(0, 3, (count, 1, side, side))
    )
    return InMemory(np.clip(images, 0, 255).astype(np.uint8))


@pytest.fixture
def model(rng) -> convae.Autoencoder:
    """PCA of such images."""
    code = convae.Layer(3, "input", activation="identity", visible_bias="position")
    model = convae.Autoencoder((1, 6, 6), [code], "identity")
    convae.initialise(model, "pca", pixels(rng, 200).pixels / np.float32(255))
    return model


@pytest.fixture
def detector(model, rng) -> Detector:
    return Detector.fit(model, pixels(rng, 200), pixels(rng, 100), 64)


def test_scores_of_a_split_are_those_of_its_images(model, rng) -> None:
    split = InMemory(rng.integers(0, 256, (10, 1, 6, 6), dtype=np.uint8))
    x = split.pixels.astype("float32") / np.float32(255)
    expected = ((x - model.reconstruct(x)) ** 2).mean(axis=(1, 2, 3))
    found = Detector(model).scores(split, 4, ["squared_error", "peak"])
    assert list(found) == ["squared_error", "peak"]
    np.testing.assert_allclose(found["squared_error"], expected, rtol=1e-5)


def test_what_is_normal_is_learnt(model, detector, rng) -> None:
    train = pixels(rng, 5000)
    fitted = Detector.fit(model, train, pixels(rng, 1000), 500)
    x = train.pixels / np.float32(255)
    assert fitted.normal is not None
    np.testing.assert_allclose(fitted.normal.mean_image, x.mean(axis=0), atol=1e-5)
    codes = model.encode(x).reshape(len(x), -1)
    np.testing.assert_allclose(fitted.normal.mean_code, codes.mean(axis=0), atol=1e-4)
    z = (codes - fitted.normal.mean_code) @ fitted.normal.whitening
    np.testing.assert_allclose(np.cov(z.T), np.eye(3), atol=0.25)  # but for the shrinkage
    scores = fitted.scores(pixels(rng, 1000), 500, SCORES)
    assert abs(scores["combined"].mean()) < 0.3
    assert 0.3 < scores["combined"].std() < 1.5
    assert np.sqrt((scores["mahalanobis"] ** 2).mean()) == pytest.approx(1, abs=0.1)


def test_thresholds_are_those_of_validation_images(model, rng) -> None:
    train, validation = pixels(rng, 60), pixels(rng, 30)
    fitted = Detector.fit(model, train, validation, 16)
    for name, scores in fitted.scores(validation, 16, SCORES).items():
        assert fitted.validation[name] == pytest.approx(np.sort(scores))
        assert fitted.threshold(name, 1) == pytest.approx(scores.max())


@pytest.mark.parametrize("name", SCORES)
def test_others_have_higher_scores(detector, rng, name: str) -> None:
    others = InMemory(rng.integers(0, 256, (50, 1, 6, 6), dtype=np.uint8))
    own = detector.scores(pixels(rng, 50), 64, [name])[name]
    assert np.median(detector.scores(others, 64, [name])[name]) > np.quantile(own, 0.9)
    assert (own > detector.threshold(name, 0.95)).mean() < 0.3
    assert detector.threshold(name, 0.5) < detector.threshold(name, 1)


def test_long_codes_keep_their_leading_directions(rng, monkeypatch) -> None:
    monkeypatch.setattr(anomaly, "LONGEST", 8)
    model = convae.Autoencoder((1, 6, 6), [convae.Layer(30, "input", activation="identity")])
    fitted = Detector.fit(model, pixels(rng, 60), pixels(rng, 40), 16)
    assert fitted.normal is not None
    assert fitted.normal.whitening.shape[0] == 30
    assert fitted.normal.whitening.shape[1] <= 30
    scores = fitted.scores(pixels(rng, 60), 16, ["mahalanobis"])["mahalanobis"]
    assert scores.mean() == pytest.approx(1, abs=0.4)


def test_images_that_are_all_the_same(model) -> None:
    same = InMemory(np.full((20, 1, 6, 6), 90, np.uint8))
    fitted = Detector.fit(model, same, same, 8)
    assert all(np.isfinite(values).all() for values in fitted.scores(same, 8, SCORES).values())


def test_a_models_file_keeps_it(model, detector, rng, tmp_path) -> None:
    model.extras = detector.extras()
    model.metadata["score"] = "peak"
    model.save(tmp_path / "model.safetensors")
    loaded = Detector.of_model(convae.load(tmp_path / "model.safetensors"))
    split = pixels(rng, 9)
    for name, values in loaded.scores(split, 4, SCORES).items():
        np.testing.assert_array_equal(values, detector.scores(split, 4, [name])[name])
        assert loaded.threshold(name, 0.7) == detector.threshold(name, 0.7)
    assert loaded.choose(None) == "peak"
    assert loaded.choose("ssim") == "ssim"


def test_a_model_of_no_run_has_scores_that_need_nothing_else(model) -> None:
    bare = Detector.of_model(model)
    assert bare.choose(None) == "squared_error"
    with pytest.raises(UserError, match="score: 'combined' needs to know what is normal"):
        bare.choose("combined")
    with pytest.raises(UserError, match="score: 'error' is unknown"):
        bare.choose("error")
    with pytest.raises(UserError, match="keeps no scores of validation images"):
        bare.threshold("ssim", 0.9)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mean_image", np.zeros((1, 6, 5))),
        ("mean_code", np.zeros(4)),
        ("whitening", np.zeros((4, 3))),
        ("whitening", np.zeros(3)),
        ("logarithms", np.zeros(4)),
        ("logarithms", np.full((2, 2), np.nan)),
        ("validation.peak", np.zeros(0)),
        ("validation.peak", np.zeros((2, 2))),
        ("validation.combined", np.array([np.inf])),
        ("peak.peak", np.zeros(2)),
        ("peak.ssim", None),
        ("mean_code", None),
        ("validation.ssim", None),
    ],
)
def test_a_crafted_file_is_refused(model, detector, name: str, value) -> None:
    model.extras = detector.extras()
    if value is None:
        del model.extras[name]
    else:
        model.extras[name] = value
    with pytest.raises(UserError, match=r"the model's file .*what is normal"):
        Detector.of_model(model)


@pytest.mark.parametrize("name", SCORES)
def test_the_brightest_of_a_map_is_far_above_what_is_normal(detector, rng, name: str) -> None:
    maps = np.concatenate([*detector.maps(pixels(rng, 100), 32, name)])
    assert maps.shape == (100, 6, 6)
    highest = maps.reshape(100, -1).max(axis=1).mean()
    assert detector.top(name, maps) == pytest.approx(4 * highest, rel=0.3)
    assert Detector(detector.model).top(name, maps) == maps.max()
    assert Detector(detector.model).top(name, 0 * maps) == 1


def test_quantiles_sum_up_scores(rng) -> None:
    few, many = rng.random(50), rng.random(20_000)
    assert quantiles(few) == pytest.approx(np.sort(few))
    assert len(quantiles(many)) == 1001
    assert np.quantile(quantiles(many), 0.999) == pytest.approx(np.quantile(many, 0.999))


def test_judgement() -> None:
    """Of the 6 pairs of an anomaly and a normal image 5 are in the right order."""
    scores = np.array([0.1, 0.4, 0.3, 0.6, 0.9])
    anomalous = np.array([False, False, True, True, True])
    judged = judge(scores, anomalous, threshold=0.35)
    assert judged["auroc"] == pytest.approx(5 / 6)
    # recall steps of 1/3 at precisions 1/1, 2/2 and 3/4
    assert judged["auprc"] == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert judged["detected"] == pytest.approx(2 / 3)
    assert judged["false_alarms"] == pytest.approx(1 / 2)


@pytest.mark.parametrize("truth", [True, False])
def test_one_kind_alone_cannot_be_judged(truth: bool) -> None:
    with pytest.raises(ValueError, match="all normal, or all anomalous"):
        judge(np.arange(3.0), np.full(3, truth), 1)
