"""The start of a run: a sample that fits into memory, and PCA's error before the first step."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
import pytest
from sklearn.decomposition import PCA

import convae
from convae.app import run as module
from convae.configuration import Config, DatasetConfig, LossConfig, OptimizerConfig
from convae.data.splits import InMemory, Splits
from convae.report.evaluation import measure
from convae.training import start as starts
from convae.training.build import build_model
from convae.training.choices import choose
from convae.training.start import start, starting_images
from tests.helpers import curve

CONFIG = Config(
    dataset=DatasetConfig("digits"),
    optimizer=OptimizerConfig("adamw"),
    loss=LossConfig("mse"),
    dtype="float64",
    device="cpu",
)


def linear(rng: np.random.Generator, shape: tuple[int, ...], count: int) -> np.ndarray:
    """Images of a few directions around a mean image, and some noise: uint8 (N, C, H, W)."""
    directions = rng.standard_normal((5, prod(shape)))
    weights = rng.standard_normal((count, 5)) * [40, 30, 20, 10, 5]
    values = 128 + weights @ directions / 3 + 2 * rng.standard_normal((count, prod(shape)))
    return values.clip(0, 255).round().astype(np.uint8).reshape(count, *shape)


def splits(pixels: np.ndarray) -> Splits:
    train, validation, test = np.split(pixels, [-100, -50])
    return Splits("linear", InMemory(train), InMemory(validation), InMemory(test))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 10, 7)])
@pytest.mark.parametrize("code", [1, 3, 8])
def test_the_error_of_a_start_is_that_of_pca(shape, code: int, rng) -> None:
    data = splits(linear(rng, shape, 400))
    model = replace(CONFIG.model, output_activation="identity")
    config = choose(replace(CONFIG, model=model, code=code), data).config
    built = build_model(config, shape)
    start(built, config, data)
    train, validation = (
        split.pixels.reshape(len(split), -1) / 255 for split in (data.train, data.validation)
    )
    pca = PCA(code, svd_solver="full").fit(train)
    expected = ((pca.inverse_transform(pca.transform(validation)) - validation) ** 2).mean()
    assert measure(built, data.validation, 64).loss == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("init", ["pca", "parseval", "orthogonal", "he"])
def test_a_start_depends_on_the_images_and_the_seed_only(init: str, rng) -> None:
    pixels = linear(rng, (1, 8, 8), 300)

    def parameters(seed: int) -> np.ndarray:
        data = splits(pixels.copy())
        config = choose(replace(CONFIG, init=init, seed=seed), data).config
        model = build_model(config, (1, 8, 8))
        for array in model.parameters.values():
            array[...] = rng.random(array.shape)  # to be overwritten
        start(model, config, data)
        return np.concatenate([array.ravel() for array in model.parameters.values()])

    assert (parameters(0) == parameters(0)).all()
    assert (parameters(0) != parameters(1)).any()


def noise_split(rng: np.random.Generator, count: int = 100) -> InMemory:
    return InMemory(rng.integers(0, 256, (count, 1, 6, 6), dtype=np.uint8))


def test_a_sample_has_the_split_once_in_an_order_of_its_own(rng) -> None:
    split = noise_split(rng)
    model = convae.Autoencoder((1, 6, 6), [convae.Layer(2, 3)])
    x = starting_images(model, split)
    assert x.dtype == model.dtype
    rows = [row.tobytes() for row in np.rint(x * 255).astype(np.uint8)]
    own = [row.tobytes() for row in split.pixels]
    assert sorted(rows) == sorted(own)
    assert rows != own
    assert (starting_images(model, split) == x).all()
    other = convae.Autoencoder((1, 6, 6), [convae.Layer(2, 3)], seed=1)
    assert (starting_images(other, split) != x).any()


@pytest.mark.parametrize(
    ("images", "size", "expected"),
    [(7, 2**30, 7), (10_000, 4 * 36 * 20, 20), (10_000, 4 * 36 * 21 - 1, 20), (10_000, 10, 1)],
)
def test_a_sample_is_bounded_by_number_and_by_memory(
    images, size, expected, rng, monkeypatch
) -> None:
    monkeypatch.setattr(starts, "IMAGES", images)
    monkeypatch.setattr(starts, "BYTES", size)
    model = convae.Autoencoder((1, 6, 6), [convae.Layer(2, 3)])
    x = starting_images(model, noise_split(rng))
    assert x.shape == (expected, 1, 6, 6)
    assert len(np.unique(x.reshape(expected, -1), axis=0)) == expected


RUN = ("device=cpu", "dataset.limit=64", "dataset.evaluation_limit=32", "trainer.embeddings=0")


def test_a_run_starts_once_and_goes_on_from_its_state(tmp_path, monkeypatch) -> None:
    begun: list[int] = []

    def counting(model, config, data) -> None:
        begun.append(1)
        start(model, config, data)

    monkeypatch.setattr(module, "start", counting)
    constant = (*RUN, "schedule=constant")
    folder = tmp_path / "run"
    convae.train([*constant, "trainer.epochs=1", f"hydra.run.dir={folder}"])
    assert begun == [1]
    resumed = convae.train([f"resume={folder}", "trainer.epochs=3"])
    assert begun == [1]
    whole = convae.train([*constant, "trainer.epochs=3", f"hydra.run.dir={tmp_path / 'whole'}"])
    assert (resumed.model.flat_parameters == whole.model.flat_parameters).all()


def test_a_run_learns_from_its_start(tmp_path) -> None:
    """With a learning rate of almost nothing it stays at PCA; drawn at random it is far from it."""
    still = (*RUN, "trainer.epochs=1", "optimizer.learning_rate=1e-9", "augmentation=none")
    losses = {}
    for init in ("pca", "he"):
        words = (f"init={init}", "model.output_activation=identity", "dtype=float64")
        result = convae.train([*still, *words, f"hydra.run.dir={tmp_path / init}"])
        start, losses[init] = curve(result.directory, "loss/validation")
        assert start == pytest.approx(losses[init], rel=1e-3)
    assert result.figures["pca_mse"] == pytest.approx(losses["pca"], rel=0.2)  # of test images
    assert losses["he"] > 3 * losses["pca"]
