"""Baselines against projections and regressions written out in the test."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import convae
from convae.data.corruption import Corruption, Use
from convae.data.splits import InMemory
from convae.report import baselines
from convae.report.baselines import Baselines
from convae.report.evaluation import measure_quality
from convae.report.patches import Patches


@pytest.fixture
def splits(rng) -> tuple[InMemory, InMemory]:
    """Images of 4x6 pixels with directions of different variances."""
    mix = rng.normal(size=(24, 24)) * np.linspace(30, 3, 24)[:, None]

    def split(count: int) -> InMemory:
        pixels = 128 + rng.normal(size=(count, 24)) @ mix / 3
        return InMemory(np.clip(pixels, 0, 255).astype(np.uint8).reshape(-1, 1, 4, 6))

    return split(90), split(13)


def model_of(shape: tuple[int, ...], numbers: int) -> convae.Autoencoder:
    return convae.Autoencoder(shape, [convae.Layer(numbers, "input")])


def rows(split: InMemory) -> np.ndarray:
    return split.pixels.reshape(len(split), -1) / 255


def projected(train: np.ndarray, test: np.ndarray, components: int) -> np.ndarray:
    """PCA by the singular value decomposition of all training rows."""
    mean = train.mean(axis=0)
    V = np.linalg.svd(train - mean, full_matrices=False)[2][:components]
    return (test - mean) @ V.T @ V + mean


def test_the_mean_image(splits) -> None:
    train, test = splits
    fitted = Baselines.fit(model_of((1, 4, 6), 3), train)
    mean = rows(train).mean(axis=0)
    np.testing.assert_allclose(fitted.mean_image.ravel(), mean, rtol=1e-6)
    expected = ((rows(test) - mean) ** 2).mean()
    assert fitted.errors(test)["mean_image_mse"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("components", [1, 5, 23])
def test_pca_is_the_projection_on_the_leading_directions(splits, components: int) -> None:
    train, test = splits
    fitted = Baselines.fit(model_of((1, 4, 6), components), train)
    expected = ((projected(rows(train), rows(test), components) - rows(test)) ** 2).mean()
    found = fitted.errors(test, batch_size=5)
    assert set(found) == {"mean_image_mse", "pca_mse"}
    assert found["pca_mse"] == pytest.approx(expected, rel=1e-3)
    assert fitted.labels()["pca"].startswith(f"PCA with {components} component")
    assert fitted.notes == ()


def test_pca_with_a_component_for_every_pixel_loses_nothing(splits) -> None:
    fitted = Baselines.fit(model_of((1, 4, 6), 30), splits[0])
    found = fitted.errors(splits[1], quality=True)
    assert found.pop("mean_image_mse") > 0
    assert found == {"pca_mse": 0, "pca_psnr": np.inf, "pca_ssim": pytest.approx(1)}
    assert fitted.labels()["pca"] == "PCA with 24 components"


def test_a_second_fit_is_the_same_to_the_bit(splits) -> None:
    found = [Baselines.fit(model_of((1, 4, 6), 5), splits[0]).errors(splits[1]) for _ in range(2)]
    assert found[0] == found[1]


def test_equal_images_have_no_components() -> None:
    split = InMemory(np.full((5, 1, 4, 4), 51, np.uint8))
    found = Baselines.fit(model_of((1, 4, 4), 3), split, Corruption("masking", 0.5)).errors(split)
    assert found["mean_image_mse"] == pytest.approx(0, abs=1e-12)
    assert found["linear_mse"] == pytest.approx(0, abs=1e-9)


# ---- codes with positions


def test_patches_divide_the_image() -> None:
    image = np.arange(2 * 5 * 4).reshape(1, 2, 5, 4)
    patches = Patches((2, 5, 4), (2, 2))
    cut = patches.cut(image)
    assert cut.shape == (1, 4, 2 * 3 * 2)
    # two rows are filled up to three with the last one, three need no more
    assert (cut[0, 1].reshape(2, 3, 2) == image[0, :, [0, 1, 1]].swapaxes(0, 1)[..., 2:]).all()
    assert (cut[0, 2].reshape(2, 3, 2) == image[0, :, 2:, :2]).all()


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (3, 2), (5, 4), (7, 9), (4, 3)])
def test_patches_are_joined_to_the_image_again(rng, grid) -> None:
    images = rng.random((3, 2, 5, 4))
    patches = Patches((2, 5, 4), grid)
    cut = patches.cut(images)
    assert cut.shape == (3, np.prod(grid), patches.length)
    np.testing.assert_array_equal(patches.join(cut), images)


@pytest.mark.parametrize(
    ("size", "grid"), [((7,), (3,)), ((7,), (9,)), ((4, 3, 5), (2, 2, 2)), ((4, 3, 5), (1, 3, 4))]
)
def test_patches_of_signals_and_volumes(rng, size, grid) -> None:
    examples = rng.random((3, 2, *size))
    patches = Patches((2, *size), grid)
    cut = patches.cut(examples)
    assert cut.shape == (3, np.prod(grid), patches.length)
    np.testing.assert_array_equal(patches.join(cut), examples)
    first = cut[0, 0].reshape(2, *(-(-n // m) for n, m in zip(size, grid, strict=True)))
    within = [slice(0, max(1, n // m)) for n, m in zip(size, grid, strict=True)]
    np.testing.assert_array_equal(
        first[(slice(None), *within)], examples[0][(slice(None), *within)]
    )


@pytest.mark.parametrize("largest", [baselines.LARGEST, 8])
def test_floats_have_the_baselines_of_bytes(splits, monkeypatch, largest: int) -> None:
    train, test = splits
    monkeypatch.setattr(baselines, "LARGEST", largest)
    floats = [InMemory((s.pixels / 255).astype(np.float32)) for s in (train, test)]
    model = model_of((1, 4, 6), 5)
    expected = Baselines.fit(model, train).errors(test)
    found = Baselines.fit(model, floats[0]).errors(floats[1])
    assert found == pytest.approx(expected, rel=1e-3)


def test_patches_share_directions_and_have_their_own_means(splits) -> None:
    train, test = splits
    model = convae.Autoencoder((1, 4, 6), [convae.Layer(2, 2, stride=2)])
    fitted = Baselines.fit(model, train)

    def cut(split: InMemory) -> np.ndarray:
        images = rows(split).reshape(-1, 4, 6)
        patches = [images[:, i : i + 2, j : j + 2] for i in (0, 2) for j in (0, 2, 4)]
        return np.stack(patches, axis=1).reshape(len(split), 6, 4)

    mean = cut(train).mean(axis=0)
    V = np.linalg.svd((cut(train) - mean).reshape(-1, 4), full_matrices=False)[2][:2]
    centred = cut(test) - mean
    expected = ((centred @ V.T @ V - centred) ** 2).mean()
    found = fitted.errors(test, quality=True)
    assert found["patch_pca_mse"] == pytest.approx(expected, rel=1e-4)
    assert found["patch_pca_mse"] > found["pca_mse"]
    assert {"patch_pca_psnr", "patch_pca_ssim"} <= set(found)
    assert fitted.labels()["patch_pca"] == "PCA of 2x3 patches, 2 of each"


# ---- noise


@pytest.mark.parametrize(("images", "directions"), [(90, 9), (300, 24)])
def test_with_noise_the_best_linear_map_is_a_regression(splits, images, directions) -> None:
    """On the leading directions, one for ten images; these come twice, to have enough noise."""
    test = splits[1]
    train = InMemory(np.concatenate([splits[0].pixels] * 4)[:images])
    corruption = Corruption("gaussian", 0.3)
    fitted = Baselines.fit(model_of((1, 4, 6), 4), train, corruption)
    mean = rows(train).mean(axis=0)
    V = np.linalg.svd(rows(train) - mean)[2][:directions]

    def noisy(split: InMemory, use: Use, index: int) -> np.ndarray:
        x = rows(split).astype("float32").reshape(-1, 1, 4, 6)
        return (corruption(x, use, index).reshape(len(split), -1) - mean) @ V.T

    y = np.concatenate([noisy(train, Use.TRAINING, index) for index in (0, 1)])
    x = np.concatenate([(rows(train) - mean) @ V.T] * 2)
    yc = y - y.mean(axis=0)
    A = np.linalg.lstsq(yc, x, rcond=None)[0]
    U = np.linalg.svd(yc @ A, full_matrices=False)[2][:4]
    given = noisy(test, Use.TEST, 0)
    expected = (given - y.mean(axis=0)) @ A @ U.T @ U @ V + mean
    found = fitted.errors(test)
    assert found["linear_mse"] == pytest.approx(((expected - rows(test)) ** 2).mean(), rel=1e-3)
    of_pca = given[:, :4] @ V[:4] + mean
    assert found["pca_mse"] == pytest.approx(((of_pca - rows(test)) ** 2).mean(), rel=1e-3)
    assert found["linear_mse"] < found["pca_mse"]
    assert fitted.labels()["linear"] == "the best linear map of rank 4"
    assert ("leading directions" in " ".join(fitted.notes)) == (directions < 24)


def test_models_and_baselines_are_given_the_same_noise(splits) -> None:
    corruption = Corruption("masking", 0.5)
    model = model_of((1, 4, 6), 24)
    errors = Baselines.fit(model, splits[0], corruption).errors(
        splits[1], Use.TEST, 5, quality=True
    )
    measured = measure_quality(model, splits[1], 5, Use.TEST, corruption)
    for what in ("mse", "psnr", "ssim"):
        assert errors[f"pca_{what}"] == pytest.approx(measured[f"input_{what}"], rel=1e-5)


# ---- large images


@pytest.fixture
def _small_limits(monkeypatch) -> None:
    """Images of 24 values are large, and so are 40 of them."""
    monkeypatch.setattr(baselines, "LARGEST", 20)
    monkeypatch.setattr(baselines, "SAMPLE_BYTES", 24 * 40)


@pytest.mark.usefixtures("_small_limits")
def test_large_images_are_fitted_within_directions_of_some(splits) -> None:
    train, test = splits
    fitted = Baselines.fit(model_of((1, 4, 6), 3), train)
    exact = ((projected(rows(train), rows(test), 3) - rows(test)) ** 2).mean()
    assert fitted.errors(test)["pca_mse"] == pytest.approx(exact, rel=0.05)
    assert fitted.notes == (
        "PCA is fitted on all training images, within the 12 leading directions of 20",
    )


@pytest.mark.usefixtures("_small_limits")
def test_too_many_components_leave_no_choice_of_directions(splits) -> None:
    train, test = splits
    fitted = Baselines.fit(model_of((1, 4, 6), 12), train)
    chosen = np.sort(np.random.default_rng(0).permutation(90)[:20])
    some = rows(train)[chosen]
    V = np.linalg.svd(some - some.mean(axis=0), full_matrices=False)[2][:12]
    centred = rows(test) - rows(train).mean(axis=0)
    expected = ((centred @ V.T @ V - centred) ** 2).mean()
    assert fitted.errors(test)["pca_mse"] == pytest.approx(expected, rel=1e-3)
    assert fitted.notes == ("PCA is fitted on 20 of 90 training images",)


@pytest.mark.usefixtures("_small_limits")
def test_few_large_images_are_all_used(splits) -> None:
    train = splits[0].select(np.arange(15))
    fitted = Baselines.fit(model_of((1, 4, 6), 3), train)
    exact = ((projected(rows(train), rows(splits[1]), 3) - rows(splits[1])) ** 2).mean()
    assert fitted.errors(splits[1])["pca_mse"] == pytest.approx(exact, rel=1e-3)
    assert fitted.notes == ()


@pytest.mark.usefixtures("_small_limits")
def test_work_on_large_images_is_bounded_and_said(splits, monkeypatch) -> None:
    monkeypatch.setattr(baselines, "WORK", 2 * 12 * 24 * 60)
    notes = Baselines.fit(model_of((1, 4, 6), 3), splits[0], Corruption("masking", 0.2)).notes
    assert notes == (
        "PCA is fitted on 60 of 90 training images, within the 12 leading directions of 20",
        "the linear map is fitted on 40 of 90 training images, within their 9 leading directions",
    )


@pytest.mark.usefixtures("_small_limits")
def test_noise_on_large_images(splits) -> None:
    train, test = splits
    found = Baselines.fit(model_of((1, 4, 6), 3), train, Corruption("gaussian", 0.4)).errors(test)
    assert found["linear_mse"] < found["pca_mse"]
    assert found["linear_mse"] < found["mean_image_mse"]


@pytest.mark.usefixtures("_small_limits")
def test_images_are_read_in_batches(splits, monkeypatch) -> None:
    """As a streamed split reads them: by positions, never all at once."""
    seen: list[int] = []
    batches = InMemory.batches

    def counting(split: InMemory, size: int, *rest: object) -> Iterator[np.ndarray]:
        for pixels in batches(split, size, *rest):
            seen.append(len(pixels))
            yield pixels

    monkeypatch.setattr(InMemory, "batches", counting)
    monkeypatch.setattr(baselines, "BATCH_VALUES", 24 * 4)
    corruption = Corruption("masking", 0.5)
    found = Baselines.fit(model_of((1, 4, 6), 3), splits[0], corruption)
    found.errors(splits[1], batch_size=4, quality=True)
    assert max(seen) == 4
