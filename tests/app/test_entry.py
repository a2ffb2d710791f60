"""From the command line or a script to a run: Hydra's part of it."""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
import traceback

import numpy as np
import pytest
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

import convae
from convae.app import entry
from convae.app.overrides import CONFIGS
from convae.errors import DeviceError, UserError
from convae.keys import override
from convae.training.pretraining import STAGES
from tests.helpers import REPOSITORY, events, run_train

TINY = (
    "device=cpu",
    "trainer.epochs=1",
    "trainer.embeddings=0",
    "dataset.limit=64",
    "dataset.evaluation_limit=32",
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> None:
    """Runs write to outputs/ in the current folder."""
    monkeypatch.chdir(tmp_path)


def state_of_process() -> tuple:
    """What a call of `train` must leave as it was."""
    log = logging.getLogger("convae")
    return (
        GlobalHydra.instance().is_initialized(),
        HydraConfig.instance().cfg,
        os.getcwd(),
        list(sys.argv),
        list(logging.getLogger().handlers),
        list(log.handlers),
        (log.level, log.propagate),
    )


# ---- train


def test_two_runs_of_a_process_have_two_folders_and_the_same_numbers() -> None:
    first, second = (convae.train(TINY) for _ in range(2))
    assert first.directory != second.directory
    assert first.figures == second.figures
    assert (first.model.flat_parameters == second.model.flat_parameters).all()
    for result in (first, second):
        assert result.directory.parent.name == "outputs"
        summary = json.loads((result.directory / "summary.json").read_text())
        assert summary.pop("run") == result.model.metadata["run"]
        assert summary == result.figures
        best = convae.load(result.directory)
        assert (best.flat_parameters == result.model.flat_parameters).all()
    curves = [
        [event.value for event in events(result.directory).Scalars("loss/validation")]
        for result in (first, second)
    ]
    assert curves[0] == curves[1]


def test_a_folder_that_exists_is_not_written_into(tmp_path) -> None:
    folders = [convae.train([*TINY, "hydra.run.dir=mine"]).directory.name for _ in range(3)]
    assert folders == ["mine", "mine_2", "mine_3"]


def test_the_run_folder_tells_the_configuration(capsys) -> None:
    folder = convae.train([*TINY, "seed=7"]).directory
    assert "- seed=7" in (folder / ".hydra" / "overrides.yaml").read_text().splitlines()
    assert "seed: 7" in (folder / ".hydra" / "config.yaml").read_text().splitlines()
    assert "epoch 1/1" in capsys.readouterr().out
    assert "epoch 1/1" in (folder / "train.log").read_text()


def test_train_leaves_the_process_as_it_was() -> None:
    before = state_of_process()
    convae.train(TINY)
    assert state_of_process() == before
    for overrides in (["trainer.epoch=1"], ["trainer.epochs=0"], ["dataset=nosuch"]):
        with pytest.raises(UserError):
            convae.train(overrides)
    assert state_of_process() == before


def test_train_works_within_another_use_of_hydra() -> None:
    with initialize_config_module(CONFIGS, version_base="1.3"):
        before = state_of_process()
        convae.train(TINY)
        assert state_of_process() == before
        assert GlobalHydra.instance().is_initialized()


def test_unknown_keys_are_refused_with_the_known_ones(tmp_path) -> None:
    with pytest.raises(UserError, match=r"trainer.epoch: no such key; .*trainer.epochs") as caught:
        convae.train(["trainer.epoch=1"])
    for key in ("epochs", "batch_size", "clip_norm"):
        assert key in str(caught.value).splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("override", "kind", "says"),
    [
        ("dataset=nosuch", UserError, "dataset/nosuch"),
        ("trainer.epochs=many", UserError, "trainer.epochs"),
        ("trainer.epochs=0", UserError, "trainer.epochs: 0 is out of range"),
        (
            "model.layers=[{filters: 3, kernel: 3, stride: 0}]",
            UserError,
            "model.layers.0.stride: 0 is too small",
        ),
        ("model.layers.0.stride=2", UserError, "model=auto chooses the layers .* model=conv"),
        ("code=65", UserError, "code: 65 is out of range; .* at most 64"),
        ("dataset.strict=7", UserError, "dataset.strict: 7 is neither true nor false"),
        ("tf32=true", DeviceError, "tf32: only a GPU has it"),
        pytest.param(
            "resume=nowhere",
            (UserError, FileNotFoundError),
            "resume: 'nowhere' holds no state of a run",
        ),
        pytest.param(
            "model=null",
            UserError,
            "model: null is not an option",
        ),
    ],
)
def test_mistakes_are_exceptions_that_say_what_to_do(override: str, kind: type, says: str) -> None:
    with pytest.raises(kind, match=says):
        convae.train([*TINY, override])


def test_configuration_files_of_ones_own(tmp_path) -> None:
    own = tmp_path / "own"
    (own / "model").mkdir(parents=True)
    (own / "model" / "mine.yaml").write_text(
        "layers:\n  - {filters: 5, kernel: input, activation: tanh}\n"
    )
    result = convae.train([*TINY, "model=mine"], config_dir=own)
    assert result.model.code_shape == (5, 1, 1)
    assert result.model.layers[0].spec.activation == "tanh"


@pytest.mark.parametrize(
    "value",
    [
        "optimizer: {learning_rate: 0.005}",
        pytest.param(
            "seed: 2",
        ),
    ],
)
def test_experiments_of_ones_own(tmp_path, value: str) -> None:
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    file = tmp_path / "own" / "experiment" / "mine.yaml"
    file.write_text(f"# @package _global_\n{value}\n")
    folder = convae.train([*TINY, "experiment=mine"], config_dir=tmp_path / "own").directory
    found = OmegaConf.load(folder / ".hydra" / "config.yaml")
    assert OmegaConf.merge(found, OmegaConf.create(value)) == found


def test_a_run_resumes_in_its_folder() -> None:
    tiny = (*TINY, "schedule=constant")  # others depend on the number of epochs
    first = convae.train([*tiny, "trainer.epochs=2"])
    whole = convae.train([*tiny, "trainer.epochs=4"])
    resumed = convae.train([f"resume={first.directory}", "trainer.epochs=4"])
    assert resumed.directory == first.directory
    assert resumed.figures == whole.figures
    assert (resumed.directory / ".hydra" / "resumed" / "overrides.yaml").is_file()
    assert "resume" not in (resumed.directory / ".hydra" / "overrides.yaml").read_text()


def test_a_resumed_run_keeps_its_groups() -> None:
    folder = convae.train(TINY).directory
    with pytest.raises(UserError, match=r"optimizer=sgd: a resumed run keeps its optimizer"):
        convae.train([f"resume={folder}", "optimizer=sgd"])


def test_a_stage_of_pretraining_does_not_resume_alone(main) -> None:
    folder = convae.train([*TINY, "trainer.pretrain_epochs=1"]).directory
    with pytest.raises(SystemExit, match="is a stage of pretraining; resume its run's folder"):
        main(f"resume={folder / STAGES / '0'}")


# ---- main


def test_main_does_a_run(main, tmp_path, capsys) -> None:
    main(*TINY, "hydra.run.dir=here")
    assert "epoch 1/1" in capsys.readouterr().out
    assert np.isfinite(json.loads((tmp_path / "here" / "summary.json").read_text())["test_mse"])


def a_bug(*arguments: object) -> None:
    raise KeyError("a bug of ours")


def test_bugs_keep_their_traceback(main, monkeypatch) -> None:
    monkeypatch.setattr(entry, "run", a_bug)
    with pytest.raises(KeyError, match="a bug of ours") as caught:
        main(*TINY)
    assert "a_bug" in [frame.name for frame in traceback.extract_tb(caught.tb)]


def user_error(*arguments: object) -> None:
    raise UserError("trainer.foo: 1 does not suit")


def test_user_errors_are_one_line(main, monkeypatch) -> None:
    monkeypatch.setattr(entry, "run", user_error)
    with pytest.raises(SystemExit) as caught:
        main(*TINY)
    message, hint = caught.value.code.splitlines()
    assert message == "error: trainer.foo: 1 does not suit"
    assert "HYDRA_FULL_ERROR=1" in hint


def test_user_errors_keep_their_traceback_if_asked(main, monkeypatch) -> None:
    monkeypatch.setattr(entry, "run", user_error)
    with pytest.raises(UserError, match=r"trainer\.foo"):
        main(*TINY, full_error=True)


def test_unknown_keys_are_refused_before_hydra_starts(main) -> None:
    with pytest.raises(SystemExit, match=r"^error: trainer.epoch: no such key; did you mean"):
        main("trainer.epoch=1")


def test_a_keyboard_interrupt_says_how_to_resume(main, monkeypatch, capsys) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(entry, "run", interrupt)
    with pytest.raises(SystemExit) as caught:
        main(*TINY)
    assert caught.value.code == 130
    assert "resume=" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["dataset=nosuch"], "dataset/nosuch"),
        (["model=conv", "model.layers.0.stride=0"], "model.layers.0.stride: 0 is too small"),
        (
            ["model=conv", "model.layers.0.kernel=9", "model.layers.0.padding=valid"],
            "model.layers.0.kernel: 9 along axis 0 covers 9 positions",
        ),
        (
            ["model.layers.0.kernel=9", "model.layers.0.padding=valid"],
            "model.layers.0.kernel=9: model=auto chooses the layers for the images",
        ),
        (
            ["-m", "seed=1,2", "model.layers.0.filters=8,16"],
            "model.layers.0.filters=8,16: model=auto chooses the layers for the images",
        ),
        (
            ["model=conv", "model.layers.8.kernel=9", "model.layers.9.kernel=9"],
            "model.layers.8.kernel=9: model.layers has 3 entries",
        ),
        (["trainer.epoch=3"], "trainer.epochs"),
        (["trainer.epochs=many"], "trainer.epochs"),
        (["dataset=torchvision"], "dataset.name"),
        (["+model.layers.0.foo=3"], "model.layers.0.foo: no such key"),
        (["seed=-1"], "seed: -1 is out of range"),
        pytest.param(
            ["model=null"],
            "model: null is not an option",
        ),
        (["hydra.run.dir=/proc/nowhere"], "/proc/nowhere"),
        (["tf32=true", "device=cpu"], "tf32: only a GPU has it"),
        (["model.layers=[{filters: 1000000000, kernel: 8}]"], "lower trainer.batch_size"),
        (["model.layers=[{filters: 1000000000000, kernel: 5}]"], "filters: 1000000000000 is too"),
        (
            ["model=conv", "model.layers.0.padding=1000000000"],
            "the padded input would have the size",
        ),
        (["optimizer=1e300"], "optimizer: 1e+300 is not an option; expected one of adam, adamw"),
        (["schedule=[null]"], "schedule: [None] is not an option; expected one of constant"),
        (["+experiment=mnist"], "+experiment: omit the +, as in experiment=mnist"),
        (["+dataset=mnist"], "+dataset: omit the +"),
        (["~model.layers.0"], "~model.layers.0: nothing can be removed"),
        (["~seed"], "~seed: nothing can be removed"),
        (["model=conv", "model.layers.7.filters=3"], "model.layers has 3 entries, numbered from 0"),
        (["model.layers.x.filters=3"], "model.layers is a list; number its entries"),
        (["dataset.test={train:true}"], "dataset.train, dataset.test: 'digits' takes no arguments"),
        (["dataset=mnist", "dataset.test=3"], "dataset.test: 3 is not a mapping"),
        (["dataset.name=FakeData"], "dataset.name: FakeData reads no files"),
        (["dataset.transposed=true"], "dataset.transposed: 'digits' has a fixed form"),
        (["dataset.background=nocolour"], "dataset.background: 'nocolour' is not a colour"),
        (["corruption.amount=0.3"], "corruption.amount: 0.3, but there is no noise; choose"),
        (["penalty.l1=1e30"], "lower penalty.l1 or optimizer.learning_rate"),
        (["hydra.run.dir="], "hydra.run.dir: nothing is not a folder"),
        (
            ["hydra.run.dir=7_2"],
            "72 is read as a value, not as a name; write",
        ),
        (["resume=x", "hydra.run.dir=y"], "hydra.run.dir: a resumed run keeps its own; omit it"),
        (["resume=x", "experiment=mnist"], "experiment: a resumed run keeps its own; omit it"),
        (["resume=x", "code=8"], "code: a resumed run keeps its own; omit it"),
        (
            ["resume=x", "model.layers.0.filters=8"],
            "model.layers.0.filters: a resumed run keeps its model; omit it",
        ),
        (["resume=x", "find_learning_rate=true"], "find_learning_rate: it trains no run"),
        (["dataset.root=photos (1)"], "needs quotes: 'dataset.root=\"photos (1)\"'"),
        (["loss.name=x=y"], "loss.name: 'x=y' cannot be read"),
        (["penalty=[1"], "penalty: '[1' cannot be read"),
        (["trainer.epochs=many"], "trainer.epochs=many: "),
        (["dtype=${nothing}"], "dtype=${nothing}: "),
    ],
)
def test_mistakes_end_in_a_few_clear_lines(main, tmp_path, arguments: list[str], says: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(f"hydra.run.dir={tmp_path / 'run'}", *arguments)
    message = str(caught.value.code)
    assert message.startswith("error: ")
    assert says in message
    assert len(message.splitlines()) < 30


# ---- python train.py


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["dataset=nosuch"], "dataset/nosuch"),
        (["model=conv", "model.layers.0.stride=0"], "model.layers.0.stride: 0 is too small"),
        (["trainer.epoch=3"], "trainer.epochs"),
    ],
)
def test_mistakes_are_said_on_the_screen(tmp_path, arguments: list[str], says: str) -> None:
    done = run_train(f"hydra.run.dir={tmp_path}", *arguments)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("folder", ["/no/such/folder", "configs"])
def test_folders_without_a_state_do_not_resume(folder: str) -> None:
    done = run_train(f"resume={folder}", "hydra.output_subdir=null", "hydra/job_logging=disabled")
    assert done.returncode == 1
    assert f"resume: '{folder}' holds no state of a run" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_configuration_is_shown_clean() -> None:
    done = run_train("--cfg", "job")
    assert done.returncode == 0
    assert "penalty:" in done.stdout
    assert "???" not in done.stdout


# ---- paths with odd characters


@pytest.mark.parametrize(
    "name", ["photos (1)", "it's", "x=y", "ü, ß", 'a "b"', "back\\slash", "$HOME"]
)
def test_a_path_can_be_pasted_as_it_is_printed(name: str, tmp_path) -> None:
    result = convae.train([*TINY, override("hydra.run.dir", tmp_path / name)])
    assert result.directory == tmp_path / name
    again = override("resume", result.directory)
    assert convae.train([again, "trainer.epochs=2"]).figures["best_epoch"] >= 1


def test_the_refusal_of_a_used_folder_can_be_pasted(tmp_path, main) -> None:
    folder = tmp_path / "my run"
    convae.train([*TINY, override("hydra.run.dir", "my run")])
    with pytest.raises(SystemExit) as stopped:
        main(override("hydra.run.dir", folder))
    command = str(stopped.value).partition("resume it with ")[2].partition(", or choose")[0]
    assert shlex.split(command) == [f'resume="{folder}"']


# ---- folders of runs


def test_two_starts_in_one_second_have_two_folders(tmp_path) -> None:
    command = [sys.executable, str(REPOSITORY / "train.py"), *TINY]
    command.append("hydra.run.dir=${run_directory:null,runs/same}")
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "same",
        "same_2",
        "same_3",
    ]
    for folder in (tmp_path / "runs").iterdir():
        assert (folder / "summary.json").is_file()


def test_a_used_folder_is_known_behind_an_interpolation(tmp_path, main, monkeypatch) -> None:
    folder = convae.train([*TINY, "hydra.run.dir=used"]).directory
    before = (folder / ".hydra" / "overrides.yaml").read_bytes()
    monkeypatch.setenv("PLACE", str(tmp_path))
    with pytest.raises(SystemExit, match="holds a run already"):
        main(*TINY, "seed=5", "hydra.run.dir=${oc.env:PLACE}/used")
    assert (folder / ".hydra" / "overrides.yaml").read_bytes() == before


def test_states_can_be_dropped_and_the_folder_stays_used(tmp_path, main) -> None:
    kept = convae.train([*TINY, "trainer.epochs=3", "trainer.keep_states=3"]).directory
    assert len(list(kept.glob("state-*"))) == 3
    folder = convae.train([*TINY, "trainer.drop_states=true"]).directory
    assert not list(folder.glob("state-*"))
    assert convae.load(folder).metadata["thresholds"]["squared_error"] > 0
    with pytest.raises(SystemExit, match="holds a run already, whose states are gone"):
        main(f"hydra.run.dir={folder}")


def test_no_traceback_when_imports_are_interrupted(tmp_path) -> None:
    """At several moments of the start, and twice at once."""
    start = "import runpy, sys; print('up', flush=True); "
    start += "runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    for delay in (0.1, 0.3, 0.6, 1.0, 1.5):
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                start,
                REPOSITORY / "train.py",
                *TINY[:1],
                "trainer.epochs=2000",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout.readline() == "up\n"
        time.sleep(delay)
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        output, _ = process.communicate()
        assert process.returncode in (-signal.SIGINT, 130)
        assert "Traceback" not in output


def test_a_mistake_makes_no_folder(tmp_path, main) -> None:
    for overrides in (["trainer.epochs=0"], ["dataset.holdout=7"], ["optimizer=nosuch"]):
        with pytest.raises(SystemExit):
            main(*overrides)
        with pytest.raises(UserError):
            convae.train(overrides)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_configurations_may_have_any_name(tmp_path) -> None:
    own = tmp_path / "my configs, (1)" / "model"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("layers:\n  - {filters: 5, kernel: input}\n")
    assert convae.train([*TINY, "model=mine"], config_dir=own.parent).model.code_size == 5
    with pytest.raises(UserError, match=r"trainer.epochs=abc: "):
        convae.train(["model=mine", "trainer.epochs=abc"], config_dir=own.parent)


def test_flags_name_other_files_and_so_no_override_is_blamed(tmp_path, main) -> None:
    (tmp_path / "cfg" / "experiment").mkdir(parents=True)
    (tmp_path / "cfg" / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 3\n")
    with pytest.raises(SystemExit) as stopped:
        main("--config-dir", str(tmp_path / "cfg"), "experiment=mine", "trainer.epochs=abc")
    assert "trainer.epochs" in str(stopped.value)
    assert "Could not find" not in str(stopped.value)
