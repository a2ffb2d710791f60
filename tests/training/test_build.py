"""From a configuration to objects: every file builds, and mistakes are named by their keys."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from convae import AdamW, Layer
from convae.data.augmentation import Augmentation
from convae.data.splits import InMemory, Splits
from convae.errors import DeviceError, UserError
from convae.training.build import build_model, build_parts, build_step
from convae.training.choices import choose
from convae.training.optimizers import OPTIMIZERS
from convae.training.schedules import SCHEDULES
from tests.helpers import NAMED, NOISE_CONFIG, OPTIONS, compose, open_trainer

SHAPES = {"digits": (1, 8, 8), "photos": (3, 32, 32)}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_file_builds(option: str) -> None:
    extra = NAMED.get(option, [])
    config = compose(option, *extra)
    build_parts(config)  # what is left open is no mistake
    shape = SHAPES.get(config.dataset.name, (1, 28, 28))
    images = InMemory(np.random.default_rng(0).integers(0, 256, (20, *shape), dtype=np.uint8))
    config = choose(config, Splits("noise", images, images, images)).config
    parts = build_parts(config)
    assert type(parts.optimizer) is OPTIMIZERS[config.optimizer.name]
    assert parts.optimizer.learning_rate == config.optimizer.learning_rate
    assert type(parts.schedule) is SCHEDULES[config.schedule.name]
    assert parts.schedule.factor(0, 100, 10) > 0
    assert parts.corruption.name == config.corruption.name
    assert dataclasses.asdict(parts.penalty) == dataclasses.asdict(config.penalty)
    changes = dataclasses.asdict(config.augmentation)
    assert {name: getattr(parts.augmentation, name) for name in changes} == changes
    of_classes = [7] if config.task == "classify" else []
    model = build_model(config, shape, *of_classes)
    assert model.input_shape == shape
    assert [layer.spec.filters for layer in model.layers] == [
        *(layer.filters for layer in config.model.layers),
        *of_classes,
    ]
    assert model.kind == ("classifier" if of_classes else config.model.kind)
    assert model.layers


def test_values_given_are_the_objects() -> None:
    config = compose(
        "optimizer=adamw",
        "optimizer.learning_rate=0.002",
        "optimizer.weight_decay=0.02",
        "optimizer.beta2=0.99",
        "schedule=step",
        "schedule.every=3",
        "augmentation=both",
        "augmentation.shift=3",
        "seed=3",
    )
    parts = build_parts(config)
    assert parts.optimizer == AdamW(0.002, 0.02, beta2=0.99)
    assert parts.augmentation == Augmentation(flip=True, shift=3, seed=3)
    assert (parts.schedule.every, parts.schedule.decay) == (3, 0.1)
    model = build_model(compose("model=conv", "seed=3", "dtype=float64", "loss=bce"), (1, 8, 8))
    assert (model.seed, model.dtype, model.loss.name) == (3, "float64", "bce")
    assert model.layers[1].spec == Layer(64, 4, stride=2, padding="same")
    step = build_step(compose("trainer.clip_norm=1.5"), model, parts)
    assert step.clip_norm == 1.5
    assert step.optimizer is parts.optimizer


def test_a_trainer_has_the_configurations_numbers(noise, tmp_path) -> None:
    trainer = dataclasses.replace(NOISE_CONFIG.trainer, ema=0.9, patience=4, checkpoint_every=2)
    config = dataclasses.replace(NOISE_CONFIG, trainer=trainer)
    with open_trainer(noise, tmp_path, config) as built:
        for name in ("epochs", "batch_size", "log_every", "panels_every", "patience"):
            assert getattr(built, name) == getattr(trainer, name)
        assert built.checkpoint_every == 2
        assert built.average.parameters.shape == built.model.flat_parameters.shape
        assert len(built.task.fixed_images.images(built.model)[0]) == trainer.probe


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["optimizer.name=rms"], "optimizer.name: 'rms' is unknown; expected one of sgd, adam"),
        (["optimizer.momentum=0.9"], "optimizer.momentum: adamw .*learning_rate"),
        (["optimizer.learning_rate=-1"], "optimizer.learning_rate: -1.0 is out of range"),
        (["optimizer.epsilon=0"], "optimizer.epsilon: 0.0 is out of range"),
        (["schedule.name=cos"], "schedule.name: 'cos' is unknown; expected one of constant, cos"),
        (["schedule=cosine", "schedule.every=3"], "schedule.every: cosine .*final"),
        (["schedule=step", "schedule.every=0"], "schedule.every: 0 is out of range; .* 1"),
        (["schedule=plateau", "schedule.decay=2"], "schedule.decay: 2.0 is out of range"),
        (["schedule.warmup=-1"], "schedule.warmup: -1 is out of range"),
        (["corruption.name=salt"], "corruption.name: 'salt' is unknown"),
        (["corruption=masking", "corruption.amount=2"], "corruption.amount of 'masking': 2.0 is"),
        (["penalty.l1=-1"], "penalty.l1: -1.0 is out of range"),
    ],
)
def test_bad_parts_are_refused_by_key(overrides: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        build_parts(compose(*overrides))


@pytest.mark.parametrize(
    ("overrides", "kind", "says"),
    [
        (["model.layers.0.stride=0"], UserError, "model.layers.0.stride: 0 is too small"),
        (
            ["model.layers.1.kernel=9", "model.layers.1.padding=0"],
            UserError,
            r"model.layers.1.kernel: 9 .*\(1, 8, 8\)",
        ),
        (["model.output_activation=x"], UserError, "model.output_activation: 'x' is unknown"),
        (["loss=bce", "model.output_activation=tanh"], UserError, "^loss: 'bce'"),
        (["device=tpu"], UserError, "device: 'tpu' is unknown"),
        (["device=cpu", "tf32=true"], DeviceError, "tf32: only a GPU has it"),
        (["device=cpu", "gpu_engine=fast"], UserError, "gpu_engine: .fast. is for a GPU"),
        (["device=cpu", "storage=float16"], UserError, "^storage: 'float16'"),
    ],
)
def test_bad_models_are_refused_by_key(overrides: list[str], kind: type, says: str) -> None:
    with pytest.raises(kind, match=says):
        build_model(compose("model=conv", *overrides), (1, 8, 8))
