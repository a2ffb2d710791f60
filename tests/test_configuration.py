"""Every YAML file composes and builds; mistakes are refused with what would be right."""

from __future__ import annotations

import dataclasses
import shlex

import hydra
import pytest
from omegaconf import OmegaConf

import train  # noqa: F401 (registers the schema)
from convae import Layer
from convae.configuration import Config, LayerConfig, unknown_key
from convae.training.build import (
    build_corruption,
    build_model,
    build_optimizer,
    build_penalty,
    build_schedule,
)
from tests.conftest import REPOSITORY

CONFIGS = REPOSITORY / "configs"
GROUPS = (
    "model",
    "dataset",
    "optimizer",
    "schedule",
    "loss",
    "corruption",
    "penalty",
    "trainer",
    "experiment",
    "debug",
)
OPTIONS = [f"{group}={file.stem}" for group in GROUPS for file in (CONFIGS / group).glob("*.yaml")]
SHAPES = {"digits": (1, 8, 8), "photos": (3, 32, 32), "MNIST": (1, 28, 28)}


def compose(*overrides: str) -> Config:
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        config = OmegaConf.to_object(hydra.compose("config", overrides=list(overrides)))
    assert isinstance(config, Config)
    return config


@pytest.mark.parametrize("option", OPTIONS)
def test_every_file_composes_and_builds(option: str) -> None:
    extra = ["dataset.name=Flowers102"] if option == "dataset=torchvision" else []
    config = compose(option, *extra)
    shape = SHAPES.get(config.dataset.name, (1, 28, 28))
    model = build_model(config, shape)
    assert model.input_shape == shape
    assert build_schedule(config.schedule).factor(0, 100, 10) > 0
    assert build_corruption(config).name == config.corruption.name
    assert dataclasses.asdict(build_penalty(config)) == dataclasses.asdict(config.penalty)
    assert build_optimizer(config.optimizer).learning_rate == config.optimizer.learning_rate


def test_every_file_says_what_it_is_for() -> None:
    for file in CONFIGS.rglob("*.yaml"):
        if file.parent.name in ("dataset", "model", "corruption", "experiment"):
            assert "# " in file.read_text().split("name:")[0].split("layers:")[0], file


def test_the_layers_schema_is_the_layers_arguments() -> None:
    ours = {f.name: f.default for f in dataclasses.fields(LayerConfig)}
    theirs = {f.name: f.default for f in dataclasses.fields(Layer)}
    assert ours.keys() == theirs.keys()
    required = {"filters", "kernel"}
    assert {k: v for k, v in ours.items() if k not in required} == {
        k: v for k, v in theirs.items() if k not in required
    }


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("trainer.epoch=3", "trainer.epoch: no such key; did you mean trainer.epochs?"),
        ("optimiser=adam", "optimiser: no such key; did you mean optimizer?"),
        ("model.layers.0.strides=1", "did you mean model.layers.0.stride?"),
        ("dataset.zzz=1", "dataset has: name, root"),
    ],
)
def test_unknown_keys_are_answered_with_the_known_ones(argument: str, says: str) -> None:
    assert says in (unknown_key(["seed=1", argument]) or "")


@pytest.mark.parametrize(
    "arguments",
    [
        "experiment=mnist dataset.root=x model.layers.0.stride=2 model.layers.2.kernel=input",
        "+dataset.train.split=train dataset.train.x=1 -m seed=1,2 --cfg job hydra.run.dir=x",
        "hydra/launcher=basic ~trainer.probe dataset@dataset=mnist",
    ],
)
def test_known_keys_pass(arguments: str) -> None:
    assert unknown_key(shlex.split(arguments)) is None


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["optimizer.name=rms"], "optimizer.name: 'rms' is unknown; use one of sgd, adam"),
        (
            ["optimizer.momentum=0.9"],
            "optimizer.momentum: adam has no such value; it takes learning_rate",
        ),
        (["optimizer.learning_rate=-1"], "optimizer.learning_rate: -1"),
    ],
)
def test_bad_optimizers_are_refused_by_key(overrides: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build_optimizer(compose(*overrides).optimizer)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["schedule.name=cos"], "schedule.name: 'cos' is unknown; use one of constant, cosine"),
        (["schedule=cosine", "schedule.every=3"], "schedule.every: cosine has no such value"),
        (["schedule=step", "schedule.every=0"], "schedule.every: 0 will not do; use 1 or more"),
        (["schedule=plateau", "schedule.decay=2"], "schedule.decay: 2.0 will not do"),
        (["schedule.warmup=-1"], "schedule.warmup: -1 will not do"),
    ],
)
def test_bad_schedules_are_refused_by_key(overrides: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build_schedule(compose(*overrides).schedule)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["model.layers.0.stride=0"], "model.layers.0.stride: 0 is too small"),
        (["model.layers.1.kernel=9", "model.layers.1.padding=0"], "model.layers.1.kernel: 9"),
        (["model.output_activation=x"], "model.output_activation: 'x' is unknown"),
        (["loss=bce", "model.output_activation=tanh"], "loss: 'bce'"),
    ],
)
def test_bad_models_are_refused_by_key(overrides: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build_model(compose(*overrides), (1, 8, 8))
