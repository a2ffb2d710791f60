"""The table of figures, and the advice after it."""

from __future__ import annotations

import pytest

from convae.report.verdict import advice, table

LABELS = {"test": "this model", "pca": "PCA", "linear": "a linear map", "mean_image": "the mean"}
FIGURES = {
    "test_mse": 0.01,
    "test_psnr": 20.125,
    "test_ssim": 0.91,
    "train_mse": 0.009,
    "pca_mse": 0.02,
    "pca_psnr": float("inf"),
    "pca_ssim": 0.8765,
    "mean_image_mse": 0.0753,
}


def test_columns_are_aligned_and_dashes_stand_for_what_is_not_measured() -> None:
    assert table("On 3 images", LABELS, FIGURES) == (
        "On 3 images   squared error  PSNR (dB)   SSIM\n"
        "  this model        0.01000      20.12  0.910\n"
        "  PCA               0.02000        inf  0.876\n"
        "  the mean          0.07530          -      -"
    )


def test_a_model_ahead_of_all_needs_no_advice() -> None:
    assert advice(LABELS, FIGURES) == ""


def test_a_baseline_without_error_is_no_measure() -> None:
    assert advice(LABELS, {**FIGURES, "pca_mse": 0.0}) == ""


@pytest.mark.parametrize(
    ("test", "train", "said", "tried"),
    [
        (0.025, 0.021, "behind PCA by 25%", "so it underfits. Try more epochs"),
        (0.02, 0.02, "behind PCA by 0.0%", "so it underfits. Try more epochs"),
        (0.0205, 0.019, "behind PCA by 2.5%", "so it overfits. Try more images"),
        (0.08, 0.01, "behind PCA by 300%", "so it overfits. Try more images"),
    ],
)
def test_advice_depends_on_the_error_on_training_images(test, train, said, tried) -> None:
    found = advice(LABELS, {**FIGURES, "test_mse": test, "train_mse": train})
    assert said in found
    assert f"{train:.5f}" in found
    assert tried in found


def test_the_best_baseline_is_named() -> None:
    found = advice(LABELS, {**FIGURES, "linear_mse": 0.011, "test_mse": 0.022})
    assert found.startswith("The model is behind a linear map by 100%.")
