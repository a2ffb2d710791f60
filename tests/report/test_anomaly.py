"""Scores and what is made of them, against numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

import convae
from convae.data.splits import InMemory
from convae.report.anomaly import judge, quantiles, score, threshold_at
from convae.report.quality import squared_errors


def test_errors_are_means_over_each_image() -> None:
    x = np.zeros((2, 1, 2, 2), "float32")
    R = np.array([[[[0, 0], [0, 1]]], [[[0.5, 0.5], [0.5, 0.5]]]], "float32")
    np.testing.assert_allclose(squared_errors(x, R), [0.25, 0.25])


def test_scores_of_a_split_are_those_of_its_images(rng) -> None:
    model = convae.Autoencoder((1, 6, 6), [convae.Layer(3, 3)])
    pixels = rng.integers(0, 256, (10, 1, 6, 6), dtype=np.uint8)
    x = pixels.astype("float32") / np.float32(255)
    expected = ((x - model.reconstruct(x)) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(score(model, InMemory(pixels), 4), expected, rtol=1e-5)


def test_quantiles_sum_up_scores(rng) -> None:
    few, many = rng.random(50), rng.random(20_000)
    assert quantiles(few) == pytest.approx(sorted(few))
    assert threshold_at(quantiles(few), 0.9) == pytest.approx(np.quantile(few, 0.9))
    assert len(quantiles(many)) == 1001
    assert threshold_at(quantiles(many), 0.999) == pytest.approx(np.quantile(many, 0.999))


@pytest.mark.parametrize("errors", [None, [], 3, ["a"], [None], [0.1, float("nan")], {"a": 1}])
def test_a_file_without_errors_has_no_quantile(errors: object) -> None:
    with pytest.raises(ValueError, match="keeps no errors of validation images"):
        threshold_at(errors, 0.9)


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
