"""`python train.py` as a user types it, in a process of its own."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import convae
from convae.engine import missing_gpu
from convae.report.pictures import GAP
from tests.conftest import REPOSITORY
from tests.test_datasets import write_pictures


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "train.py", *arguments], cwd=REPOSITORY, capture_output=True, text=True
    )


SHORT = ("trainer.epochs=3", "trainer.panels_every=2", "trainer.log_every=10", "dataset.limit=600")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    """A short run on the default data: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("run")
    done = run(*SHORT, "device=cpu", f"hydra.run.dir={folder}")
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def events(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def test_the_run_folder_holds_everything_about_the_run(finished) -> None:
    folder, _ = finished
    names = {entry.name for entry in folder.iterdir()}
    files = ("best.safetensors", "last.safetensors", "reconstructions.png", "summary.json")
    assert {*files, ".hydra", "train.log"} <= names
    assert sum(name.startswith("events.out.tfevents") for name in names) == 1
    assert "epoch 3/3" in (folder / "train.log").read_text()


def test_the_screen_shows_epochs_baselines_and_what_to_do_next(finished) -> None:
    folder, output = finished
    assert output.count("validation 0.") == 3
    for part in ("PCA with 16 components", "the mean image", f"tensorboard --logdir {folder}"):
        assert part in output


def test_the_summary_is_that_of_the_best_model(finished) -> None:
    folder, _ = finished
    summary = json.loads((folder / "summary.json").read_text())
    validation = [event.value for event in events(folder).Scalars("loss/validation")]
    assert summary["validation_loss"] == pytest.approx(min(validation), rel=1e-6)
    assert 0 < summary["test_mse"] < summary["mean_image_mse"]
    assert 0 < summary["pca_mse"] < summary["mean_image_mse"]


def test_the_curve_of_a_gpu_follows_the_cpu_s(finished, tmp_path) -> None:
    if missing := missing_gpu():
        pytest.skip(missing)
    done = run(*SHORT, "device=gpu", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    theirs, ours = (
        [event.value for event in events(folder).Scalars("loss/validation")]
        for folder in (finished[0], tmp_path)
    )
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_tensorboard_shows_curves_and_pictures(finished) -> None:
    folder, _ = finished
    board = events(folder)
    steps = -(-600 // 32) * 3  # the last batch of an epoch is smaller
    for tag in ("loss/train", "learning_rate", "images_per_second"):
        assert [event.step for event in board.Scalars(tag)] == list(range(10, steps, 10))
    assert [event.step for event in board.Scalars("loss/validation")] == [19, 38, 57]
    for tag, columns in (("reconstructions", 16), ("filters", 6)):
        images = board.Images(tag)
        assert [image.step for image in images] == [0, 38, 57]
        assert images[0].width == columns * (48 + GAP) - GAP


def test_the_saved_model_reconstructs(finished, rng) -> None:
    folder, _ = finished
    model = convae.load(folder)
    x = rng.random((3, 1, 8, 8), dtype="float32")
    assert model.reconstruct(x).shape == x.shape
    assert model.code_shape == (16, 1, 1)
    assert np.asarray(Image.open(folder / "reconstructions.png")).std() > 10


def test_a_second_run_gives_the_same_losses(finished, tmp_path) -> None:
    folder, _ = finished
    done = run(*SHORT, f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    first, second = events(folder), events(tmp_path)
    for tag in ("loss/train", "loss/validation"):
        values = [[event.value for event in board.Scalars(tag)] for board in (first, second)]
        assert values[0] == values[1]
    parameters = [convae.load(where).flat_parameters for where in (folder, tmp_path)]
    assert (parameters[0] == parameters[1]).all()


def test_denoising_shows_the_noisy_images_too(tmp_path) -> None:
    done = run(*SHORT, "corruption=masking", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "images of digits from masking noise of 0.5" in done.stdout
    assert "the noisy images themselves" in done.stdout
    with Image.open(tmp_path / "reconstructions.png") as picture:
        height = picture.height
    assert height == 3 * (48 + GAP) - GAP
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["input_mse"] > 0


def test_real_mnist_trains(real_images, tmp_path) -> None:
    done = run(
        "dataset=mnist",
        f"dataset.root={real_images}",
        "dataset.limit=500",
        "trainer=short",
        "trainer.epochs=1",
        f"hydra.run.dir={tmp_path}",
    )
    assert done.returncode == 0, done.stderr
    assert "10,000 test images" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["dataset=nosuch"], "Could not find 'dataset/nosuch'"),
        (["model.layers.0.stride=0"], "model.layers.0.stride: 0 is too small"),
        (
            ["model.layers.0.kernel=9", "model.layers.0.padding=valid"],
            "model.layers.0.kernel: 9 along axis 0 covers 9 positions",
        ),
        (["trainer.epoch=3"], "did you mean trainer.epochs?"),
        (["trainer.epochs=many"], "'many' of type 'str' could not be converted to Integer"),
        (["dataset=torchvision"], "dataset.name"),
        (["+model.layers.0.foo=3"], "model.layers.0.foo: no such key"),
        (["seed=-1"], "seed: -1 is too small"),
        (["model=null"], "must be a string or a list"),
        (["hydra.run.dir=/proc/nowhere"], "/proc/nowhere"),
        (["tf32=true", "device=cpu"], "tf32: only a GPU has it"),
        (["model.layers=[{filters: 1000000000000, kernel: 5}]"], "lower trainer.batch_size"),
    ],
)
def test_mistakes_end_in_a_few_clear_lines(tmp_path, arguments, says: str) -> None:
    done = run(f"hydra.run.dir={tmp_path}", *arguments)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) < 30


def test_a_lost_loss_stops_the_run_and_says_what_to_try(tmp_path) -> None:
    wild = ("optimizer=sgd", "optimizer.learning_rate=1e6", "model.output_activation=identity")
    done = run(*SHORT, *wild, f"hydra.run.dir={tmp_path}")
    assert done.returncode == 1
    for part in ("the loss became", "optimizer.learning_rate (it is 1e+06", "trainer.clip_norm=1"):
        assert part in done.stderr
    assert "Warning" not in done.stderr
    again = run(f"resume={tmp_path}", "optimizer.learning_rate=0.1")  # from the state before it
    assert again.returncode == 0, again.stderr


def test_a_full_disk_is_an_error_that_names_the_file_and_keeps_the_rest(tmp_path) -> None:
    """Files may not grow beyond a size between that of a model and that of a later state."""
    done = subprocess.run(
        [sys.executable, "train.py", *SHORT, f"hydra.run.dir={tmp_path}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000)),
    )
    assert done.returncode == 1
    assert "File too large, writing: " in done.stderr
    assert "state-000000019.safetensors" in done.stderr
    assert "Traceback" not in done.stderr
    assert convae.load(tmp_path).code_size == 16
    assert [path.name for path in tmp_path.glob("*state*")] == ["state-000000000.safetensors"]
    again = run(f"resume={tmp_path}")
    assert again.returncode == 0, again.stderr


def test_presets_for_debugging(tmp_path) -> None:
    fast = run("debug=fast", f"hydra.run.dir={tmp_path / 'fast'}")
    assert fast.returncode == 0, fast.stderr
    assert "digits: 32 training, 32 validation, 32 test images" in fast.stdout
    overfit = run("debug=overfit", f"hydra.run.dir={tmp_path / 'overfit'}")
    assert overfit.returncode == 0, overfit.stderr
    losses = [event.value for event in events(tmp_path / "overfit").Scalars("loss/train")]
    assert losses[-1] < 1e-3 < losses[0]


def test_looking_for_a_learning_rate(tmp_path) -> None:
    done = run("find_learning_rate=true", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "Try: optimizer.learning_rate=" in done.stdout
    assert (tmp_path / "learning_rate.png").is_file()
    assert not (tmp_path / "best.safetensors").exists()


def test_pretraining_then_the_whole(tmp_path) -> None:
    done = run(*SHORT, "trainer.pretrain_epochs=1", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.index("pretraining layer 2") < done.stdout.index("epoch 3/3")


def test_the_configuration_is_shown_clean() -> None:
    done = run("--cfg", "job")
    assert done.returncode == 0
    assert "penalty:" in done.stdout
    assert "???" not in done.stdout


def test_an_unreadable_image_is_named(tmp_path) -> None:
    write_pictures(tmp_path / "images", 10)
    (tmp_path / "images" / "003.png").write_bytes(b"not a picture")
    done = run(
        "dataset=imagefolder",
        f"dataset.root={tmp_path / 'images'}",
        f"hydra.run.dir={tmp_path / 'run'}",
    )
    assert done.returncode == 1
    assert "003.png cannot be read" in done.stderr
    assert "Traceback" not in done.stderr
