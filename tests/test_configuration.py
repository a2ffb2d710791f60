"""The configuration: every file composes, and keys and values that do not fit are refused."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from dataclasses import asdict
from math import isnan

import pytest
from hydra.errors import HydraException

from convae import Layer
from convae.configuration import (
    Config,
    DatasetConfig,
    LayerConfig,
    ModelConfig,
    OptimizerConfig,
    TrainerConfig,
    from_plain,
)
from convae.errors import UserError
from convae.keys import unknown_key
from tests.helpers import CONFIGS, GROUPS, NAMED, OPTIONS, compose


@pytest.mark.parametrize("option", OPTIONS)
def test_every_file_composes(option: str) -> None:
    extra = NAMED.get(option, [])
    assert isinstance(compose(option, *extra), Config)


def test_every_folder_of_files_is_a_group() -> None:
    assert {path.name for path in CONFIGS.iterdir() if path.is_dir()} - {"__pycache__"} == {
        *GROUPS,
        "hydra",
    }


def test_every_file_says_what_it_is_for() -> None:
    for file in CONFIGS.rglob("*.yaml"):
        if file.parent.name in ("dataset", "model", "corruption", "experiment"):
            assert "# " in file.read_text().split("name:")[0].split("layers:")[0], file


@pytest.mark.parametrize(
    ("overrides", "kind", "says"),
    [
        (["seed=-1"], UserError, "seed: -1 is out of range"),
        (["trainer.epochs=0"], UserError, "trainer.epochs: 0 is out of range"),
        (["trainer.threshold_quantile=1"], UserError, "trainer.threshold_quantile: 1.0 is out of"),
        (["trainer.ema=1.0"], UserError, "trainer.ema: 1.0 is out of range"),
        (["trainer.clip_norm=0"], UserError, "trainer.clip_norm: 0.0 is out of range"),
        (["trainer.patience=0"], UserError, "trainer.patience: 0 is out of range"),
        (["dataset.holdout=0.5"], UserError, "dataset.holdout: 0.5 is out of range"),
        (["trainer.epochs=many"], HydraException, "trainer.epochs=many"),
    ],
)
def test_values_out_of_range_are_refused_by_key(
    overrides: list[str], kind: type, says: str
) -> None:
    with pytest.raises(kind, match=says):
        compose(*overrides)


def test_ranges_hold_without_hydra_too() -> None:
    assert TrainerConfig(epochs=1).epochs == 1
    with pytest.raises(UserError, match=r"trainer.batch_size: 0"):
        TrainerConfig(batch_size=0)
    with pytest.raises(UserError, match=r"dataset.channels: 2"):
        DatasetConfig(name="MNIST", channels=2)


def test_the_schema_of_a_layer_has_its_arguments_and_defaults() -> None:
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
def test_unknown_keys_are_answered_with_known_ones(argument: str, says: str) -> None:
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


def test_plain_values_become_a_configuration_again() -> None:
    config = Config(
        model=ModelConfig([LayerConfig(4, [3, 5], tile=2)]),
        dataset=DatasetConfig("MNIST", train={"train": True}, normal=[1, "b"]),
        optimizer=OptimizerConfig("adam", 0.1),
    )
    assert from_plain(json.loads(json.dumps(asdict(config)))) == config


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("trainer", None, "configuration.trainer: None is not a mapping"),
        ("trainer.epochs", "many", "configuration.trainer.epochs: 'many' is not of the type int"),
        ("trainer.epochs", True, "configuration.trainer.epochs: True is not of the type int"),
        ("trainer.epochs", 0, "trainer.epochs: 0 is out of range"),
        ("trainer.ema", "x", "configuration.trainer.ema: 'x'"),
        ("trainer.new", 1, "configuration.trainer: new unknown"),
        ("model.layers", 5, "configuration.model.layers: 5"),
        ("model.layers", [7], "configuration.model.layers.0: 7 is not a mapping"),
        ("dataset.train", [], "configuration.dataset.train"),
        ("penalty.l1", float("nan"), None),
    ],
)
def test_other_values_are_refused_by_name(path: str, value: object, says: str | None) -> None:
    values = asdict(Config(dataset=DatasetConfig("digits"), optimizer=OptimizerConfig("adam", 0.1)))
    *above, name = path.split(".")
    node = values
    for key in above:
        node = node[key]
    node[name] = value
    if says is None:  # ranges are checked where the values are used
        assert isnan(from_plain(values).penalty.l1)
        return
    with pytest.raises(UserError, match=re.escape(says)):
        from_plain(values)
