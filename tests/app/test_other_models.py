"""Runs of the section's other models: what they leave behind, and how they resume."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import convae
from convae import UserError
from convae.app.cli import main as commands
from convae.app.run import Result
from tests.helpers import events

FEW = (
    "device=cpu",
    "dataset.limit=300",
    "trainer.epochs=3",
    "trainer.batch_size=32",
    "trainer.panels_every=1",
    "trainer.embeddings=0",
)
SPARSE = (
    "model=sparse_coding",
    "model.layers.0.kernel=3",
    "model.layers.0.filters=6",
    "dataset=digits",
    "dataset.limit=60",
    "dataset.evaluation_limit=20",
    "model.iterations=10",
)
MACHINE = (
    "model=rbm",
    "optimizer=adam",
    "optimizer.learning_rate=0.03",
    "schedule=constant",
    "trainer.ema=null",
)
KINDS = {
    "autoencoder": (),
    "winners": (
        "init=he",
        "model=winner_take_all",
        "model.layers.0.kernel=5",
        "model.lifetime=0.3",
    ),
    "pooling": ("model=conv", "model.layers.0.pool=2"),
    "rbm": MACHINE,
    "persistent": (*MACHINE, "model.chains=100", "model.steps=2"),
    "sparse_coding": SPARSE,
    "classifier": ("task=classify",),
    "last": ("task=classify", "model.trained=last"),
}


def train(folder: Path, *words: str, **how: Any) -> Result:
    return convae.train([*FEW, *words, f"hydra.run.dir={folder}"], **how)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """A run of each kind."""
    folder = tmp_path_factory.mktemp("runs")
    for name, words in KINDS.items():
        train(folder / name, *words)
    return {name: folder / name for name in KINDS}


@pytest.mark.parametrize("name", KINDS)
def test_models_learn(runs, name: str) -> None:
    summary = json.loads((runs[name] / "summary.json").read_text())
    assert summary["best_epoch"] > 0
    model = convae.load(runs[name])
    assert all(np.isfinite(array).all() for array in model.parameters.values())


@pytest.mark.parametrize("name", KINDS)
def test_resumed_runs_end_with_the_same_bits(runs, tmp_path, name: str) -> None:
    """Stopped after an epoch, with chains and generators where they were."""
    calls = []

    def stop(epoch: int, loss: float) -> bool:
        calls.append(epoch)
        return epoch == 1

    from convae.app import run as module

    original = module.build_trainer

    def stopping(*arguments: Any) -> Any:
        return original(*arguments[:-2], stop, arguments[-1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "build_trainer", stopping)
        train(tmp_path / "run", *KINDS[name])
    assert calls == [1]
    resumed = convae.train([f"resume={tmp_path / 'run'}"])
    whole = convae.load(runs[name] / "last.safetensors")
    again = convae.load(resumed.directory / "last.safetensors")
    assert type(again) is type(whole)
    for key, array in whole.parameters.items():
        assert again.parameters[key].tobytes() == array.tobytes(), key


def test_a_resumed_run_cannot_become_another_kind(runs, tmp_path) -> None:
    train(tmp_path / "run", "model=rbm", "trainer.epochs=1")
    with pytest.raises(UserError, match=r"model.kind: a resumed run keeps its model"):
        convae.train([f"resume={tmp_path / 'run'}", "model.kind=autoencoder"])


@pytest.mark.parametrize(
    ("name", "tags"),
    [
        ("rbm", {"samples", "rbm/free_energy/train", "rbm/free_energy/validation"}),
        ("sparse_coding", {"reconstructions", "sparse_coding/nonzero/validation"}),
        ("classifier", {"validation/accuracy", "weights/filters", "confusion"}),
    ],
)
def test_tensorboard_shows_what_belongs_to_the_kind(runs, name: str, tags: set[str]) -> None:
    found = events(runs[name]).Tags()
    shown = {tag for tags in found.values() if isinstance(tags, list) for tag in tags}
    assert tags <= shown
    assert ("tied_gradient/0/cosine" in shown) is False
    assert ("reconstructions" in shown) == (name != "classifier")


def test_a_classifier_says_how_well_it_does(runs, tmp_path, capsys) -> None:
    result = train(tmp_path / "run", "task=classify", "trainer.epochs=12")
    output = capsys.readouterr().out
    for part in ("accuracy", "logistic regression on pixels", "always the largest class"):
        assert part in output
    assert result.figures["test_accuracy"] > 0.8
    assert f"{result.figures['test_accuracy']:.2%}" in output
    assert (tmp_path / "run" / "confusion.png").read_bytes()[:4] == b"\x89PNG"


def test_pooled_errors_come_with_a_warning(tmp_path, capsys) -> None:
    train(tmp_path / "run", *KINDS["pooling"], "trainer.epochs=1")
    assert "the decoder is told where each value was" in capsys.readouterr().out


# ---- starting from another model


def test_an_autoencoder_starts_from_another(runs, tmp_path) -> None:
    result = train(tmp_path / "run", f"init={runs['autoencoder']}", "trainer.epochs=1")
    first = json.loads((runs["autoencoder"] / "summary.json").read_text())
    assert result.figures["validation_loss"] <= first["validation_loss"]


def test_a_classifier_starts_from_an_autoencoder(runs, tmp_path) -> None:
    source = convae.load(runs["autoencoder"])
    words = ("task=classify", f"init={runs['autoencoder']}", "model.trained=last")
    found = train(tmp_path / "run", *words).model
    assert len(found.layers) == len(source.layers) + 1
    for index in range(len(source.layers)):
        for name in ("kernel", "hidden_bias"):
            key = f"{index}.{name}"
            np.testing.assert_array_equal(found.parameters[key], source.parameters[key])


def test_a_classifier_starts_from_a_classifier(runs, tmp_path) -> None:
    first = json.loads((runs["classifier"] / "summary.json").read_text())
    words = ("task=classify", f"init={runs['classifier']}", "trainer.epochs=1")
    found = train(tmp_path / "run", *words)
    assert found.figures["validation_loss"] <= first["validation_loss"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["init=nowhere"], "init: 'nowhere' is neither pca, parseval"),
        (["init={run}", "model=conv"], "layer 0 of the model of .* differs"),
        (["init={run}", "code=4"], "code: the model of .* has one already"),
        (["task=classify", "init=pca"], "init: 'pca' is for what reconstructs"),
        (["task=classify", "dataset=photos"], "task: classify needs labels, and photos has none"),
        (["task=classify", "dataset.normal=[3]"], "leave dataset.normal out"),
        (["task=classify", "loss=bce"], "loss: does not go with task=classify"),
        (["task=sort"], "task: 'sort' is unknown; expected one of reconstruct, classify"),
        (["model.trained=last"], "model.trained: is for task=classify"),
        (["model.kind=forest"], "model.kind: 'forest' is unknown"),
        (["model.kind=rbm"], "model.layers: none are chosen for model.kind=rbm"),
        (["model=rbm", "corruption=gaussian"], "corruption: does not go with model.kind=rbm"),
        (["model=rbm", "loss=bce"], "loss: does not go with model.kind=rbm"),
        (["model=rbm", "init=pca"], "init: does not go with model.kind=rbm"),
        (["model=rbm", "model.sparsity=0.1"], "model.sparsity: is for model.kind=sparse_coding"),
        (["model=rbm", "model.steps=0"], "model.steps: 0"),
        (["model=rbm", "penalty.contractive=1"], "penalty.contractive"),
        (["model=rbm", "task=classify"], "model.kind: 'rbm' reconstructs"),
        (["model=sparse_coding", "model.sparsity=-1"], "model.sparsity: -1"),
        (["model=winner_take_all", "model.lifetime=2"], "model.lifetime: 2"),
        (["model=conv", "model.layers.0.pool=3"], r"model.layers.0.pool: \(3, 3\) does not divide"),
        (["model=conv", "model.layers.0.pool=2", "init=pca"], "for layers without pooling"),
    ],
)
def test_what_does_not_go_together(runs, tmp_path, main, words: list[str], message: str) -> None:
    given = [word.format(run=runs["autoencoder"]) for word in words]
    with pytest.raises(SystemExit, match=message):
        main(*FEW, *given, f"hydra.run.dir={tmp_path / 'run'}")


# ---- commands


def call(*words: object) -> Any:
    return CliRunner().invoke(commands, [str(word) for word in words])


def test_classes_are_written(runs, tmp_path) -> None:
    done = call("classify", runs["classifier"], "digits", "-o", tmp_path / "classes.csv")
    assert done.exit_code == 0, done.output
    header, *rows = csv.reader(io.StringIO((tmp_path / "classes.csv").read_text()))
    assert header == ["image", "class", "probability"]
    model = convae.load(runs["classifier"])
    assert {row[1] for row in rows} <= set(model.metadata["classes"]) | set("0123456789")
    assert all(0 < float(row[2]) <= 1 for row in rows)
    assert (
        call("classify", runs["classifier"], "digits", "-o", tmp_path / "classes.csv").exit_code
        == 0
    )


@pytest.mark.parametrize("command", ["score", "reconstruct", "report"])
def test_a_classifier_does_not_reconstruct(runs, tmp_path, command: str) -> None:
    images = [] if command == "report" else ["digits"]
    done = call(command, runs["classifier"], *images, "-o", tmp_path / "out.html")
    assert done.exit_code == 1
    assert "a classifier" in done.output
    assert not (tmp_path / "out.html").exists()


def test_an_autoencoder_does_not_classify(runs) -> None:
    done = call("classify", runs["rbm"], "digits")
    assert done.exit_code == 1
    assert "is no classifier's; train with task=classify" in done.output


@pytest.mark.parametrize("name", ["winners", "pooling", "rbm", "sparse_coding"])
def test_the_others_encode_score_and_reconstruct(runs, tmp_path, name: str) -> None:
    for words in (
        ("encode", "-o", tmp_path / "codes.npy"),
        ("score", "-o", tmp_path / "scores.csv"),
        ("reconstruct", "-o", tmp_path / "pictures"),
    ):
        command, *rest = words
        done = call(command, runs[name], "digits", *rest)
        assert done.exit_code == 0, done.output
    codes = np.load(tmp_path / "codes.npy")
    assert codes.shape[1:] == convae.load(runs[name]).code_shape


@pytest.mark.parametrize("name", ["autoencoder", "rbm", "sparse_coding"])
def test_show_measures_the_layers(runs, name: str) -> None:
    done = call("show", runs[name])
    assert done.exit_code == 0, done.output
    layers = len(convae.load(runs[name]).layers)
    assert done.output.count("largest singular value") == layers


def test_probes_pool_codes(runs) -> None:
    words = ("--classifier", "svm", "--pool", 3, "--stride", 2, "--limit", 200)
    done = call("probe", runs["winners"], "--dataset", "digits", *words)
    assert done.exit_code == 0, done.output
    codes = next(line.split() for line in done.output.splitlines() if line.startswith("codes"))
    assert int(codes[1]) == 16 * 4 * 4
