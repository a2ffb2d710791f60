"""Whole runs: what they leave in their folder, and how they stop and resume."""

from __future__ import annotations

import dataclasses
import json
import random
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from omegaconf import OmegaConf
from PIL import Image
from tensorboard.plugins.projector import ProjectorConfig

import convae
from convae.app.run import Result
from convae.app.summary import read_figures
from convae.data.augmentation import Augmentation
from convae.data.datasets import load_dataset
from convae.data.pictures import Preprocessing
from convae.data.sources import named
from convae.errors import DivergenceError
from convae.report.pictures import GAP
from convae.training.choices import choose
from tests.helpers import (
    REPOSITORY,
    SHORT,
    compose,
    cupy_or_skip,
    curve,
    events,
    hyperparameters,
    run_train,
    write_pictures,
)

PICTURE = 48 + GAP
"""Pixels from one picture of a digit to the next."""


def train(folder: Path, *overrides: str) -> Result:
    """A run in this process."""
    return convae.train([*overrides, f"hydra.run.dir={folder / 'run'}"])


# ---- a short run on digits, by `python train.py`


def test_the_run_folder_holds_everything_about_the_run(finished) -> None:
    folder, _ = finished
    names = {entry.name for entry in folder.iterdir()}
    files = ("best.safetensors", "last.safetensors", "reconstructions.png", "summary.json")
    assert {*files, ".hydra", "train.log"} <= names
    assert sum(name.startswith("events.out.tfevents") for name in names) == 1
    assert "epoch 3/3" in (folder / "train.log").read_text()


def test_the_screen_shows_epochs_baselines_and_what_to_do_next(finished) -> None:
    folder, output = finished
    figures = json.loads((folder / "summary.json").read_text())
    assert output.count("validation 0.") == 3
    assert "On 180 test images of digits " in output
    rows = {
        line.rsplit(None, 3)[0].strip(): line.split()[-3:]
        for line in output.splitlines()
        if line.startswith("  ")
    }
    for label, name in (
        ("this model (epoch 3, code of 16 numbers)", "test"),
        ("PCA with 16 components", "pca"),
    ):
        written = (("mse", ".5f"), ("psnr", ".2f"), ("ssim", ".3f"))
        assert rows[label] == [format(figures[f"{name}_{what}"], how) for what, how in written]
    assert rows["the mean image"] == [f"{figures['mean_image_mse']:.5f}", "-", "-"]

    command = output.rpartition("Look at it: ")[2]
    # steps of pictures that are kept: ten otherwise, and none, not all, with 0
    kept = ["--samples_per_plugin", "images=1000"]
    assert shlex.split(command) == ["tensorboard", "--logdir", str(folder), *kept]


def test_the_summary_is_that_of_the_best_model(finished) -> None:
    folder, _ = finished
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["validation_loss"] == pytest.approx(
        min(curve(folder, "loss/validation")), rel=1e-6
    )
    assert 0 < summary["test_mse"] < summary["mean_image_mse"]
    assert 0 < summary["pca_mse"] < summary["mean_image_mse"]


def test_tensorboard_shows_curves_and_pictures(finished) -> None:
    folder, _ = finished
    board = events(folder)
    steps = -(-600 // 32) * 3  # the last batch of an epoch is smaller
    for tag in ("loss/train", "training/learning_rate", "training/images_per_second"):
        assert [event.step for event in board.Scalars(tag)] == list(range(10, steps, 10))
    assert [event.step for event in board.Scalars("loss/validation")] == [0, 19, 38, 57]
    for tag in ("reconstructions", "weights/filters"):
        assert [image.step for image in board.Images(tag)] == [0, 38, 57]
    assert board.Images("reconstructions")[0].height == 3 * PICTURE - GAP
    assert board.Images("weights/filters")[0].width == 6 * PICTURE - GAP


def test_tensorboard_has_one_entry_with_what_the_user_said_and_the_figures(finished) -> None:
    folder, _ = finished
    assert len({path.parent for path in folder.rglob("*tfevents*")}) == 1
    said = dict(override.split("=") for override in SHORT)
    expected = {"dataset": "digits", "model": "auto", "device": "cpu"}
    assert hyperparameters(folder) == expected | {key: float(said[key]) for key in said}
    figures = json.loads((folder / "summary.json").read_text())
    del figures["run"]
    shown = {tag: curve(folder, tag) for tag in events(folder).Tags()["scalars"]}
    assert {tag: values for tag, values in shown.items() if tag.startswith("summary/")} == {
        f"summary/{name}": [np.float32(value)] for name, value in figures.items()
    }


def test_tensorboard_shows_the_configuration_as_text(finished) -> None:
    folder, _ = finished
    (event,) = events(folder).Tensors("configuration")
    (text,) = event.tensor_proto.string_val
    first, *lines, last = text.decode().splitlines()
    assert (first, last) == ("```yaml", "```")
    shown = OmegaConf.create("\n".join(lines))
    config = compose(*SHORT, "device=cpu")
    chosen = choose(config, load_dataset(config.dataset, config.seed)).config
    assert shown == dataclasses.asdict(chosen)
    specs = [layer.spec.filters for layer in convae.load(folder).layers]
    assert [layer.filters for layer in shown.model.layers] == specs
    assert shown.optimizer.learning_rate > 0


def test_the_projector_shows_the_codes_of_the_run(finished) -> None:
    folder, _ = finished
    config = ProjectorConfig()
    text_format.Parse((folder / "projector_config.pbtxt").read_text(), config)
    (shown,) = config.embeddings
    assert np.loadtxt(folder / shown.tensor_path).shape == (180, 16)
    assert len((folder / shown.metadata_path).read_text().split()) == 180


def test_the_saved_model_reconstructs(finished, rng) -> None:
    folder, _ = finished
    model = convae.load(folder)
    x = rng.random((3, 1, 8, 8), dtype="float32")
    assert model.reconstruct(x).shape == x.shape
    assert model.code_shape == (16, 1, 1)
    assert np.asarray(Image.open(folder / "reconstructions.png")).std() > 10


def test_a_run_in_a_script_gives_the_same_numbers(finished, tmp_path) -> None:
    folder, _ = finished
    result = train(tmp_path, *SHORT, "device=cpu")
    for tag in ("loss/train", "loss/validation"):
        assert curve(folder, tag) == curve(result.directory, tag)
    assert (convae.load(folder).flat_parameters == result.model.flat_parameters).all()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary.pop("run") == result.model.metadata["run"]
    assert result.figures == summary


@pytest.mark.gpu
def test_the_curve_of_a_gpu_follows_the_cpus(tmp_path) -> None:
    cupy_or_skip()
    # Adam would make full steps of gradients that are zero but for rounding, as some are at first
    words = (*SHORT, "optimizer=sgd")
    ours, theirs = (
        curve(train(tmp_path / device, *words, f"device={device}").directory, "loss/validation")
        for device in ("cpu", "gpu")
    )
    assert theirs == pytest.approx(ours, rel=1e-3)


# ---- other runs


def test_denoising_shows_the_noisy_images_too(tmp_path, capsys) -> None:
    result = train(tmp_path, *SHORT, "device=cpu", "corruption=masking")
    output = capsys.readouterr().out
    assert "images of digits from masking noise of 0.5" in output
    for label in ("the best linear map of rank 16", "the noisy images themselves"):
        assert label in output
    with Image.open(result.directory / "reconstructions.png") as picture:
        assert picture.height == 3 * PICTURE - GAP
    assert result.figures["input_mse"] > result.figures["linear_mse"] > 0
    assert 0 < result.figures["input_ssim"] < result.figures["linear_ssim"] < 1


def test_a_run_that_is_behind_a_baseline_says_so_and_what_to_try(tmp_path, capsys) -> None:
    short = ("model=conv", "init=he", "trainer.epochs=1", "trainer.embeddings=0", "device=cpu")
    result = train(tmp_path, *short)
    output = capsys.readouterr().out
    assert "The model is behind PCA with 16 components by " in output
    said = f"Its error on training images, {result.figures['train_mse']:.5f}, is no lower either"
    assert f"{said}, so it underfits. Try more epochs" in output


def test_a_run_that_only_spoils_its_start_keeps_it_and_says_so(tmp_path, capsys) -> None:
    words = ("code=64", "trainer.epochs=1", "optimizer.learning_rate=0.1", "trainer.embeddings=0")
    lossless = (*words, "model.output_activation=identity", "dtype=float64", "device=cpu")
    result = train(tmp_path, *lossless)
    assert result.figures["best_epoch"] == 0
    assert result.figures["test_mse"] < 1e-10
    assert "No epoch was better than the start, which is what is kept" in capsys.readouterr().out


def test_a_code_with_positions_has_a_baseline_with_positions(tmp_path, capsys) -> None:
    small = (
        "model=spatial",
        "model.layers.2.stride=1",
        "trainer.epochs=1",
        "trainer.embeddings=0",
        "device=cpu",
    )
    result = train(tmp_path, *small)
    _, *grid = result.model.code_shape
    assert f"PCA of {grid[0]}x{grid[1]} patches, " in capsys.readouterr().out
    assert result.figures["patch_pca_mse"] >= 0


def test_a_lossless_baseline_has_an_infinite_psnr_in_valid_json(tmp_path, capsys) -> None:
    wide = (
        "model=conv",
        "model.layers.2.filters=64",
        "trainer.epochs=1",
        "trainer.embeddings=0",
        "device=cpu",
    )
    result = train(tmp_path, *wide)
    assert "The code is no smaller than the image: PCA loses nothing." in capsys.readouterr().out
    assert result.figures["pca_psnr"] == np.inf
    text = (result.directory / "summary.json").read_text()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    json.loads(text, parse_constant=refuse)
    assert read_figures(result.directory) == result.figures


def test_classes_that_are_not_normal_are_detected(tmp_path, capsys) -> None:
    result = train(tmp_path, *SHORT, "device=cpu", "dataset.normal=[8]")
    assert "Anomalies, by score=combined: AUROC 0." in capsys.readouterr().out
    assert 0.8 < result.figures["auroc"] <= 1
    assert 0.8 < result.figures["auprc"] <= 1
    assert result.figures["detected"] > result.figures["false_alarms"]
    with Image.open(result.directory / "reconstructions.png") as picture:
        assert picture.height == 3 * PICTURE - GAP  # the third row is that of differences


def test_real_mnist_trains(real_images, tmp_path, capsys) -> None:
    data = ("dataset=mnist", f"dataset.root={real_images}", "dataset.limit=500")
    small = ("dataset.evaluation_limit=200", "trainer=short", "trainer.epochs=1", "device=cpu")
    train(tmp_path, *data, *small)
    assert "MNIST: 500 training, 200 validation, 200 test images" in capsys.readouterr().out


def test_one_batch_is_a_test_of_everything(tmp_path, capsys) -> None:
    train(tmp_path, "debug=fast", "device=cpu")
    assert "digits: 64 training, 64 validation, 64 test images" in capsys.readouterr().out


@pytest.mark.slow
def test_one_batch_can_be_overfitted(tmp_path) -> None:
    losses = curve(train(tmp_path, "debug=overfit", "device=cpu").directory, "loss/train")
    assert losses[-1] < 1e-3 < losses[0]


def test_a_learning_rate_is_searched_for(tmp_path, capsys) -> None:
    result = train(tmp_path, "find_learning_rate=true", "device=cpu")
    assert f"Try: optimizer.learning_rate={result.figures['learning_rate']:.1e}" in (
        capsys.readouterr().out
    )
    assert (result.directory / "learning_rate.png").is_file()
    assert not (result.directory / "best.safetensors").exists()


def test_pretraining_comes_before_the_whole(tmp_path, capsys) -> None:
    train(tmp_path, *SHORT, "device=cpu", "trainer.pretrain_epochs=1")
    output = capsys.readouterr().out
    assert output.index("pretraining layer 1") < output.index("epoch 3/3")


def test_a_broken_backend_is_found_before_training(tmp_path, monkeypatch) -> None:
    backend = type(convae.engine.backend_for("cpu"))
    right = backend.h
    monkeypatch.setattr(backend, "h", lambda *arguments: right(*arguments) * np.float32(1.01))
    with pytest.raises(RuntimeError, match="self_check: on layer 0"):
        train(tmp_path, *SHORT, "device=cpu")
    result = train(tmp_path, *SHORT, "device=cpu", "trainer.self_check=false")
    assert (result.directory / "summary.json").is_file()


def test_an_unreadable_image_is_named(tmp_path) -> None:
    write_pictures(tmp_path / "images", 10)
    (tmp_path / "images" / "003.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"003.png: not a picture"):
        train(
            tmp_path, "dataset=imagefolder", f"dataset.root={tmp_path / 'images'}",
            "dataset.strict=true",
        )  # fmt: skip


# ---- stopped, and resumed


@pytest.mark.parametrize("prolonged", [[], ["trainer.epochs=2"]], ids=["finished", "prolonged"])
def test_a_resumed_run_has_one_entry_that_is_up_to_date(prolonged, tmp_path, capsys) -> None:
    short = ("dataset.limit=100", "trainer.epochs=1", "schedule=constant")
    run = train(tmp_path, "device=cpu", *short, "seed=3").directory
    said, folders = hyperparameters(run), {path.parent for path in run.glob("[!.]*/*")}
    capsys.readouterr()
    # with another quantile the threshold is another figure
    again = convae.train([f"resume={run}", "trainer.threshold_quantile=0.5", *prolonged])
    output = capsys.readouterr()
    assert "warning" not in output.out + output.err
    assert hyperparameters(run) == said
    assert len(events(run).Tensors("configuration")) == 1
    for name, value in again.figures.items():
        assert curve(run, f"summary/{name}") == [np.float32(value)]
    assert folders == {run / "projector"} == {path.parent for path in run.glob("[!.]*/*")}


def test_the_command_to_look_at_a_run_can_be_pasted(tmp_path, capsys) -> None:
    train(tmp_path / "my runs", "debug=fast", "device=cpu")
    command = shlex.split(capsys.readouterr().out.rpartition("Look at it: ")[2])
    assert command[command.index("--logdir") + 1] == str(tmp_path / "my runs" / "run")


def test_a_diverged_run_says_what_to_try_and_resumes(tmp_path) -> None:
    wild = ("optimizer=sgd", "optimizer.learning_rate=1e6", "model.output_activation=identity")
    with pytest.raises(DivergenceError, match="the loss became") as caught:
        train(tmp_path, *SHORT, "device=cpu", *wild)
    for part in ("optimizer.learning_rate (it is 1e+06", "trainer.clip_norm=1"):
        assert part in str(caught.value)
    again = convae.train([f"resume={tmp_path / 'run'}", "optimizer.learning_rate=0.1"])
    assert np.isfinite(again.figures["test_mse"])


def test_a_full_disk_is_an_error_that_names_the_file_and_keeps_the_rest(tmp_path) -> None:
    """Files may not grow beyond a size between that of a model and that of a later state."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

    done = run_train(
        *SHORT, "model=conv", "device=cpu", f"hydra.run.dir={tmp_path}", preexec_fn=limit
    )
    assert done.returncode == 1
    assert "File too large, writing: " in done.stderr
    assert "state-000000019.safetensors" in done.stderr
    assert "Traceback" not in done.stderr
    assert convae.load(tmp_path).code_size == 16
    assert [path.name for path in tmp_path.glob("*state*")] == ["state-000000000.safetensors"]
    again = convae.train([f"resume={tmp_path}"])
    assert again.figures["best_epoch"] == 3


def test_a_finished_run_can_be_prolonged_and_says_what_changed(tmp_path, capsys) -> None:
    train(tmp_path, "device=cpu", "dataset.limit=100", "trainer.epochs=1")
    capsys.readouterr()
    convae.train([f"resume={tmp_path / 'run'}", "trainer.epochs=2"])
    output = capsys.readouterr().out
    assert "resuming with trainer.epochs=2" in output
    assert "epoch 2/2" in output
    assert "epoch 1/2" not in output


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_as_one_left_alone(tmp_path) -> None:
    """Signals to a real process at random moments."""
    long = ("trainer.epochs=80", "dataset.limit=600", "trainer.panels_every=20")
    whole = train(tmp_path, *long, "device=cpu").directory
    killed = tmp_path / "killed"
    rng = random.Random(0)
    arguments = [*long, "device=cpu", f"hydra.run.dir={killed}"]
    kinds = [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
    for number in rng.choices(kinds, k=6):
        process = subprocess.Popen(
            [sys.executable, "train.py", *arguments],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wanted = rng.randint(1, 5)  # epochs to see before it is killed
        for line in process.stdout:
            wanted -= line.startswith("epoch ")
            if wanted == 0:
                break
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(number)
        _, errors = process.communicate()
        if number == signal.SIGKILL:
            assert process.returncode == -number
        else:
            assert process.returncode == 128 + number
            assert f"to resume: python train.py resume={killed}" in errors
        arguments = [f"resume={killed}"]
    done = run_train(*arguments)
    assert done.returncode == 0, done.stderr
    for name in ("best.safetensors", "last.safetensors"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    for tag in ("loss/train", "loss/validation"):
        values = [
            [(event.step, event.value) for event in events(folder).Scalars(tag)]
            for folder in (whole, killed)
        ]
        assert values[0] == values[1]


def test_windows_at_random_train_a_smaller_model(tmp_path, main, monkeypatch) -> None:
    seen = set()
    change = Augmentation.__call__

    def recorded(self: Augmentation, images: np.ndarray, *how: object) -> np.ndarray:
        changed = change(self, images, *how)
        seen.add((images.shape[2:], changed.shape[2:]))
        return changed

    monkeypatch.setattr(Augmentation, "__call__", recorded)
    main(
        "augmentation.crop=6",
        "trainer.epochs=2",
        "trainer.embeddings=10",
        f"hydra.run.dir={tmp_path}",
    )
    assert ((8, 8), (6, 6)) in seen
    model = convae.load(tmp_path)
    assert model.input_shape == (1, 6, 6)
    assert model.metadata["preprocessing"]["crop"] == [6, 6]
    assert model.metadata["preprocessing"]["size"] == [8, 8]
    how = Preprocessing.of_model(model)
    assert (how.size, how.crop) == ((8, 8), (6, 6))
    images = load_dataset(named("digits")).test
    found = read_figures(tmp_path)["test_mse"]
    x = next(images.batches(1000))[:, :, 1:7, 1:7].astype("float32") / np.float32(255)
    assert ((model.reconstruct(x) - x) ** 2).mean() == pytest.approx(found, rel=1e-4)
    main(f"resume={tmp_path}", "trainer.epochs=3")
    assert convae.load(tmp_path).input_shape == (1, 6, 6)
