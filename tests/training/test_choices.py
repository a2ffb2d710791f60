"""What is chosen from images whose answer is known; what is given is never overruled."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
import pytest

from convae.configuration import (
    AugmentationConfig,
    Config,
    LayerConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    PenaltyConfig,
    ScheduleConfig,
    TrainerConfig,
)
from convae.data.splits import InMemory, Splits
from convae.errors import UserError
from convae.training import choices
from convae.training.build import build_model
from convae.training.choices import Choices, choose, likeness

OPEN = Config(
    model=ModelConfig([], None),
    optimizer=OptimizerConfig("adamw"),
    schedule=ScheduleConfig("cosine"),
    loss=LossConfig("mse"),
    augmentation=AugmentationConfig(None, None),
    trainer=TrainerConfig(epochs=None, batch_size=None),
)
"""Everything that can be left open."""


def splits(pixels: np.ndarray) -> Splits:
    some = InMemory(pixels[:2])
    return Splits("images", InMemory(pixels), some, some)


def chosen(pixels: np.ndarray, config: Config = OPEN) -> Choices:
    return choose(config, splits(pixels))


def counted_images(count: int) -> np.ndarray:
    """So many images, in the memory of one."""
    return np.broadcast_to(np.uint8(100), (count, 1, 4, 4))


def texture(rng: np.random.Generator, count: int = 300, side: int = 16) -> np.ndarray:
    """Smooth noise, of which no place and no direction is special: (N, 1, side, side)."""
    noise = rng.standard_normal((count, 1, side + 4, side + 4))
    smooth = sum(noise[..., i : i + side, j : j + side] for i in range(5) for j in range(5))
    return (128 + 8 * smooth).clip(2, 253).astype(np.uint8)


def one_sided(rng: np.random.Generator) -> np.ndarray:
    """A texture that fades to the right: mirrored or moved, it is another kind of image."""
    fading = np.linspace(1, 0, 16) ** 2
    return (2 + (texture(rng) - 2.0) * fading).astype(np.uint8)


# ---- the layers, the output


def test_layers_are_those_of_the_shape_and_of_the_code(rng) -> None:
    pixels = rng.integers(0, 256, (20, 3, 16, 12), dtype=np.uint8)
    for code, expected in ((None, 64), (5, 5)):
        config = chosen(pixels, replace(OPEN, code=code)).config
        assert config.model.layers[-1].filters == expected
        assert config.model.layers[-1].kernel == "input"
        assert config.code is None  # a saved configuration says it by its layers
        assert all(isinstance(layer, LayerConfig) for layer in config.model.layers)


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 5, 3), (3, 40, 21)])
def test_the_reason_tells_the_sizes_that_there_are(shape) -> None:
    found = chosen(np.zeros((4, *shape), np.uint8))
    model = build_model(found.config, shape)
    *convolutions, code = model.layers
    before, after = (f"{rows}x{columns}" for rows, columns in (shape[1:], code.input_shape[1:]))
    widths = ", ".join(str(layer.spec.filters) for layer in convolutions)
    assert found.reasons[0] == (
        f"model=auto: {before} is halved to {after} by convolutions of {widths} filters, "
        f"then a code of {model.code_size} numbers"
    )


def test_images_too_small_for_convolutions_are_not_halved() -> None:
    reasons = chosen(np.zeros((4, 1, 1, 1), np.uint8)).reasons
    assert reasons[0] == "model=auto: 1x1, then a code of 1 number"


@pytest.mark.parametrize(
    ("part", "expected"), [(0.0, "identity"), (0.2, "identity"), (0.4, "sigmoid"), (1.0, "sigmoid")]
)
def test_black_and_white_images_are_given_a_sigmoid(part: float, expected: str, rng) -> None:
    pixels = rng.integers(20, 235, (200, 1, 8, 8)).astype(np.uint8)
    places = rng.random(pixels.shape) < part
    pixels[places] = rng.choice([0, 1, 254, 255], places.sum()).astype(np.uint8)
    found = chosen(pixels)
    assert found.config.model.output_activation == expected
    (reason,) = [line for line in found.reasons if line.startswith("model.output_activation=")]
    assert f"{places.mean():.0%} of the values are black or white" in reason


def test_bce_has_a_sigmoid_whatever_the_images(rng) -> None:
    grey = rng.integers(20, 235, (50, 1, 8, 8)).astype(np.uint8)
    found = chosen(grey, replace(OPEN, loss=LossConfig("bce")))
    assert found.config.model.output_activation == "sigmoid"
    assert any("sigmoid: loss=bce" in line for line in found.reasons)


def test_a_sparse_code_of_probabilities_has_a_sigmoid(rng) -> None:
    config = replace(OPEN, penalty=PenaltyConfig(kl=0.001))
    layers = chosen(texture(rng), config).config.model.layers
    assert [layer.activation for layer in layers[:-1]] == ["relu"] * (len(layers) - 1)
    assert layers[-1].activation == "sigmoid"


def test_a_sigmoid_learns_faster(rng) -> None:
    rates = []
    for low, high in ((20, 235), (0, 2)):
        pixels = rng.integers(low, high, (50, 1, 8, 8)).astype(np.uint8)
        for name in ("adamw", "sgd"):
            config = replace(OPEN, optimizer=OptimizerConfig(name))
            rates.append(chosen(pixels, config).config.optimizer.learning_rate)
    assert rates == [0.001, 0.5, 0.004, 2.0]


@pytest.mark.parametrize(
    ("name", "images", "expected"),
    [("adamw", 100, 0.2), ("adamw", 4_000, 0.1), ("adam", 100, None), ("sgd", 100, None)],
)
def test_kernels_decay_faster_where_images_are_few(name: str, images: int, expected) -> None:
    config = replace(OPEN, optimizer=OptimizerConfig(name))
    assert chosen(counted_images(images), config).config.optimizer.weight_decay == expected


# ---- augmentation


def test_textures_are_mirrored_and_shifted(rng) -> None:
    augmentation = chosen(texture(rng)).config.augmentation
    assert augmentation == AugmentationConfig(flip=True, shift=2)


def test_one_sided_pictures_are_not(rng) -> None:
    found = chosen(one_sided(rng))
    assert found.config.augmentation == AugmentationConfig(flip=False, shift=0)
    for name in ("flip=false: mirrored", "shift=0: shifted"):
        (reason,) = [line for line in found.reasons if f"augmentation.{name}" in line]
        assert float(reason.split(" images have ")[1].split()[0]) > 1.1


def test_pictures_alike_upside_down_but_not_mirrored_are_not_mirrored(rng) -> None:
    """It is left and right that are exchanged."""
    sideways = one_sided(rng)
    upright = np.ascontiguousarray(sideways.swapaxes(2, 3))  # fades downwards
    assert not chosen(sideways).config.augmentation.flip
    assert chosen(upright).config.augmentation.flip


def test_the_likeness_of_images_to_themselves_is_one(rng) -> None:
    images = rng.random((100, 2, 8, 8))
    assert likeness(images, images) == 1
    assert likeness(images, images + 1) > 5
    assert likeness(images[:7], images[:7]) == inf


def test_the_likeness_is_the_ratio_of_errors_of_pca(rng) -> None:
    """Images on a line, with noise of 1 around it; the changed ones have noise of 3."""
    line = rng.standard_normal((1000, 1)) * 100 * np.ones(4)
    noise = rng.standard_normal((1000, 4))
    usual, louder = ((line + size * noise).reshape(1000, 1, 2, 2) for size in (1, 3))
    assert likeness(usual, louder) == pytest.approx(9, rel=0.1)


# ---- the length


@pytest.fixture
def four_thousand_steps(monkeypatch) -> None:
    monkeypatch.setattr(choices, "STEPS", 4_000)


@pytest.mark.parametrize(
    ("images", "batch_size", "epochs", "patience", "warmup"),
    [
        (2, 32, 150, 50, 15),
        (100, 32, 150, 50, 60),
        (1617, 32, 78, 26, 100),
        (3_999, 32, 32, 10, 100),
        (4_000, 64, 63, 21, 100),
        (19_999, 64, 13, 5, 100),
        (20_000, 128, 25, 8, 100),
        (200_000, 128, 12, 5, 100),
    ],
)
def test_few_images_are_seen_more_often(
    four_thousand_steps, images, batch_size, epochs, patience, warmup
) -> None:
    """About 4,000 steps: 12 to 150 epochs."""
    config = chosen(counted_images(images)).config
    assert (config.trainer.batch_size, config.trainer.epochs) == (batch_size, epochs)
    assert (config.trainer.patience, config.schedule.warmup) == (patience, warmup)


def test_epochs_go_with_the_batch_size_that_is_given(four_thousand_steps) -> None:
    trainer = TrainerConfig(epochs=None, batch_size=100, patience=3)
    found = chosen(counted_images(10_000), replace(OPEN, trainer=trainer)).config.trainer
    assert (found.epochs, found.batch_size, found.patience) == (40, 100, 3)


# ---- what is given


def leaves(values: Any, above: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {above: values}
    return {
        name: value
        for key, part in values.items()
        for name, value in leaves(part, f"{above}.{key}".lstrip(".")).items()
    }


NEVER_OPEN = {
    "model.layers",
    "model.output_activation",
    "optimizer.learning_rate",
    "augmentation.flip",
    "augmentation.shift",
    "trainer.epochs",
    "trainer.batch_size",
}
"""What training cannot do without."""


@pytest.mark.parametrize(
    "given",
    [
        OPEN,
        replace(OPEN, schedule=ScheduleConfig("one_cycle")),
        replace(OPEN, model=ModelConfig([LayerConfig(2, "input")], "tanh")),
        replace(OPEN, model=ModelConfig([], "relu"), loss=LossConfig("bce")),
        replace(OPEN, augmentation=AugmentationConfig(True, None)),
        replace(OPEN, augmentation=AugmentationConfig(None, 3)),
        replace(OPEN, augmentation=AugmentationConfig(False, 0)),
        replace(OPEN, trainer=TrainerConfig(epochs=3, batch_size=None)),
        replace(OPEN, trainer=TrainerConfig(epochs=None, batch_size=7, patience=2)),
        replace(OPEN, trainer=TrainerConfig(epochs=100_000, batch_size=1)),
        replace(OPEN, optimizer=OptimizerConfig("sgd", 7.5, momentum=0.1)),
        replace(OPEN, optimizer=OptimizerConfig("adamw", 0.5)),
        replace(OPEN, optimizer=OptimizerConfig("adamw", weight_decay=0.0)),
        replace(OPEN, optimizer=OptimizerConfig("adam")),
        replace(OPEN, schedule=ScheduleConfig("plateau", warmup=0)),
    ],
    ids=itertools.count(),
)
def test_what_is_given_stays_and_every_choice_has_a_reason(given: Config, rng) -> None:
    found = chosen(one_sided(rng), given)
    before, after = (leaves(dataclasses.asdict(config)) for config in (given, found.config))
    changed = {name for name in after if after[name] != before.get(name)}
    were_open = {name for name, value in before.items() if value is None or value == []}
    assert changed <= were_open
    assert changed >= were_open & NEVER_OPEN
    said = {line.partition("=")[0] for line in found.reasons}
    said = {"model.layers" if name == "model" else name for name in said}
    assert said == changed - {"trainer.patience"}  # which the line on epochs tells


def test_what_was_chosen_is_not_chosen_again(rng) -> None:
    """As a run's saved configuration, which is read when it resumes."""
    once = chosen(texture(rng)).config
    again = chosen(one_sided(rng), once)
    assert again.config == once
    assert again.reasons == ()


def test_the_same_images_have_the_same_choices(rng) -> None:
    pixels = texture(rng)
    assert chosen(pixels) == chosen(pixels.copy())


# ---- odd images


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 1, 1), (1, 1, 5), (3, 5, 2), (1, 40, 3)], ids=str)
@pytest.mark.parametrize("count", [2, 3, 5, 9, 20])
def test_few_small_and_constant_images_are_no_trouble(count: int, shape, rng) -> None:
    noise = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    constant, last_differs = np.full_like(noise, 77), np.zeros_like(noise)
    last_differs[-1] = noise[-1]
    for pixels in (noise, constant, np.zeros_like(noise), last_differs):
        found = chosen(pixels)
        assert "nan" not in " ".join(found.reasons)
        assert "inf" not in " ".join(found.reasons)
        assert found.config.augmentation.shift in (0, 1)
        if count < 8 or pixels is constant:
            assert found.config.augmentation == AugmentationConfig(flip=False, shift=0)


@pytest.mark.parametrize(("shape", "shift"), [((8, 8), 8), ((8, 5), 5), ((5, 8), 100), ((1, 1), 1)])
def test_a_shift_as_large_as_the_images_is_refused(shape, shift: int) -> None:
    pixels = np.zeros((4, 1, *shape), np.uint8)
    size = f"{shape[0]}x{shape[1]}"
    with pytest.raises(
        UserError, match=rf"augmentation.shift: {shift} .*{size}.* than {min(shape)}"
    ):
        chosen(pixels, replace(OPEN, augmentation=AugmentationConfig(False, shift)))
    less = AugmentationConfig(False, shift=min(shape) - 1)
    assert chosen(pixels, replace(OPEN, augmentation=less)).config.augmentation == less


def test_a_code_larger_than_the_images_is_refused() -> None:
    with pytest.raises(UserError, match=r"code: 49 is out of range; .* at most 48"):
        chosen(np.zeros((4, 3, 4, 4), np.uint8), replace(OPEN, code=49))
