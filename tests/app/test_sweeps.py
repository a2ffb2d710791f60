"""Sweeps: the table, folders that are never used twice, and what is left by an interruption."""

from __future__ import annotations

import csv
import importlib.util
import json
import multiprocessing
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

import convae
from convae.app import entry, workers
from convae.app.arguments import ordered
from convae.app.sweeps import Jobs, as_csv, as_table, collect
from convae.configuration import Config
from convae.keys import override
from convae.training import signals
from convae.training.signals import Interrupted
from convae.training.state import has_state, read_state
from tests.helpers import REPOSITORY, SHORT, compose, run_train


def write_job(folder: Path, overrides: list[str], loss: float | None) -> None:
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("".join(f"- {o}\n" for o in overrides))
    if loss is not None:
        (folder / "summary.json").write_text(json.dumps({"validation_loss": loss}))


def test_the_best_run_comes_first_and_the_failed_one_last(tmp_path) -> None:
    write_job(tmp_path / "0", ["seed=1"], 0.3)
    write_job(tmp_path / "1", ["seed=2", "model.layers.0.kernel=[3,5]"], None)
    write_job(tmp_path / "10", ["+model.layers.1.tile=2"], 0.1)
    (tmp_path / "results").mkdir()
    rows = collect(tmp_path)
    assert [row["run"] for row in rows] == [10, 0, 1]
    table = list(csv.DictReader(as_csv(rows).splitlines()))
    assert [row["seed"] for row in table] == ["", "1", "2"]
    assert table[2]["model.layers.0.kernel"] == "[3,5]"
    assert table[0]["model.layers.1.tile"] == "2"
    assert [row["validation_loss"] for row in table] == ["0.1", "0.3", ""]


def test_the_screen_shows_the_same_in_columns(tmp_path) -> None:
    write_job(tmp_path / "0", ["seed=11"], 0.123456789)
    write_job(tmp_path / "1", ["seed=2"], None)
    header, first, second = as_table(collect(tmp_path)).splitlines()
    assert header.split()[:3] == ["run", "seed", "validation_loss"]
    assert first.split() == ["0", "11", "0.12346"]
    assert second.split() == ["1", "2"]
    assert header.index("seed") + 4 == first.index("11") + 2  # aligned to the right


def check_table(folder: Path, output: str, runs: int) -> None:
    rows = list(csv.DictReader((folder / "results.csv").read_text().splitlines()))
    assert len(rows) == runs
    losses = [float(row["validation_loss"]) for row in rows]
    assert losses == sorted(losses)
    best = next(line for line in output.splitlines() if line.startswith("Best: "))
    summary = json.loads((folder / rows[0]["run"] / "summary.json").read_text())
    assert summary["validation_loss"] == losses[0]
    for key, value in rows[0].items():
        if "." in key:
            assert f"{key}={value}" in best


def needs_joblib() -> None:
    if importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher") is None:
        pytest.skip("hydra-joblib-launcher is not installed")


ONE = (*SHORT, "trainer.epochs=1", "trainer.embeddings=0", "device=cpu")


def test_a_sweep_over_sizes(main, tmp_path, capsys) -> None:
    main("-m", "experiment=sizes", *ONE, f"hydra.sweep.dir={tmp_path}")
    output = capsys.readouterr().out
    check_table(tmp_path, output, 3)
    assert "Best: convae train " in output


@pytest.mark.slow
def test_jobs_at_the_same_time(tmp_path) -> None:
    needs_joblib()
    done = run_train("-m", "hydra/launcher=joblib", "seed=1,2", *ONE, f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    check_table(tmp_path, done.stdout, 2)
    assert "Best: python train.py " in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["submitit_local", "ray"])
def test_jobs_on_a_cluster(tmp_path, launcher: str) -> None:
    plugin = f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher"
    if importlib.util.find_spec(plugin) is None:
        pytest.skip(f"{plugin} is not installed")
    words = ("-m", f"hydra/launcher={launcher}", *ONE, f"hydra.sweep.dir={tmp_path / 'sweep'}")
    done = run_train(*words, "seed=1,2")
    assert done.returncode == 0, done.stderr
    check_table(tmp_path / "sweep", done.stdout, 2)
    done = run_train(*words, "seed=1,2,3")
    assert "2 of 3 runs have ended already" in done.stdout
    check_table(tmp_path / "sweep", done.stdout, 3)


def failed_runs(folder: Path, caught: pytest.ExceptionInfo[SystemExit], key: str) -> list[str]:
    """The values of a key in the runs that failed, after a sweep that ended with exit status 1."""
    assert isinstance(caught.value.code, str)  # printed, and the exit status is 1
    assert "1 of the runs failed" in caught.value.code
    rows = list(csv.DictReader((folder / "results.csv").read_text().splitlines()))
    assert len(rows) == 3
    return [row[key] for row in rows if row["validation_loss"] == ""]


def test_a_failed_run_loses_neither_the_others_nor_the_table(main, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(
            "-m", "model=conv", "model.layers.0.filters=4,0,8", *ONE, f"hydra.sweep.dir={tmp_path}"
        )
    assert failed_runs(tmp_path, caught, "model.layers.0.filters") == ["0"]
    assert "error: model.layers.0.filters: 0 is too small" in capsys.readouterr().out


def test_a_bug_in_a_run_loses_nothing_and_shows_its_traceback(
    main, tmp_path, monkeypatch, capsys
) -> None:
    right = entry.run

    def buggy(config: Config, *rest):
        if config.seed == 2:
            raise KeyError("a bug of ours")
        return right(config, *rest)

    monkeypatch.setattr(entry, "run", buggy)
    with pytest.raises(SystemExit) as caught:
        main("-m", "seed=1,2,3", *ONE, f"hydra.sweep.dir={tmp_path}")
    assert failed_runs(tmp_path, caught, "seed") == ["2"]
    output = capsys.readouterr().out
    assert "Traceback" in output
    assert "KeyError: 'a bug of ours'" in output


def test_a_failed_sweep_exits_with_1(tmp_path) -> None:
    zero = ("model=conv", "model.layers.0.filters=0,0")
    done = run_train("-m", *zero, *ONE, f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 1
    assert "2 of the runs failed" in done.stderr
    assert (tmp_path / "results.csv").is_file()


def test_a_sweep_cannot_resume(finished, tmp_path) -> None:
    done = run_train("-m", f"resume={finished[0]}", f"hydra.sweep.dir={tmp_path}")
    assert "resume: one run resumes at a time" in done.stdout + done.stderr
    assert done.returncode == 1


def test_a_second_call_uses_other_folders(main, tmp_path) -> None:
    main("-m", "seed=1,2", *ONE, f"hydra.sweep.dir={tmp_path}")
    before = {path: path.read_bytes() for path in tmp_path.glob("[01]/**/*") if path.is_file()}
    main("-m", "seed=3,4", *ONE, f"hydra.sweep.dir={tmp_path}")
    assert before == {p: p.read_bytes() for p in tmp_path.glob("[01]/**/*") if p.is_file()}
    assert {row["run"]: row["seed"] for row in collect(tmp_path)} == dict(enumerate("1234"))


def test_a_sweep_that_is_repeated_does_what_is_missing(main, tmp_path, capsys) -> None:
    words = ("trainer.epochs=2", *SHORT, "trainer.embeddings=0", "device=cpu")
    main("-m", "seed=1,2,3", *words, f"hydra.sweep.dir={tmp_path}")
    ended = {path: path.read_bytes() for path in tmp_path.glob("0/**/*") if path.is_file()}
    expected = [(tmp_path / n / "last.safetensors").read_bytes() for n in ("1", "2")]
    (tmp_path / "1" / "summary.json").unlink()  # it was stopped after an epoch
    max(tmp_path.glob("1/state-*")).unlink()
    for path in (path for path in tmp_path.glob("2/*") if path.name != ".hydra"):  # it failed
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (tmp_path / "2" / "error.txt").write_text("the disk was full")
    capsys.readouterr()
    main("-m", "seed=1,2,3,4", *words, f"hydra.sweep.dir={tmp_path}")
    output = capsys.readouterr().out
    assert "1 of 4 runs have ended already" in output
    assert "run 1 goes on where it was" in output
    assert "resuming after step" in output
    assert ended == {p: p.read_bytes() for p in tmp_path.glob("0/**/*") if p.is_file()}
    assert [(tmp_path / n / "last.safetensors").read_bytes() for n in ("1", "2")] == expected
    assert not (tmp_path / "2" / "error.txt").exists()
    assert {row["run"]: row["seed"] for row in collect(tmp_path)} == dict(enumerate("1234"))
    main("-m", "seed=1,2,3,4", *words, f"hydra.sweep.dir={tmp_path}")
    assert "4 of 4 runs have ended already" in capsys.readouterr().out


def test_one_sweep_at_a_time_works_in_a_folder(main, tmp_path) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(SystemExit, match="in use by another run"):
        main("-m", "seed=1,2", *ONE, f"hydra.sweep.dir={tmp_path}")
    assert not (tmp_path / "0").exists()


@pytest.mark.slow
def test_batches_are_numbered_through(main, tmp_path) -> None:
    main("-m", "seed=1,2", "hydra.sweeper.max_batch_size=1", *ONE, f"hydra.sweep.dir={tmp_path}")
    assert {row["run"]: row["seed"] for row in collect(tmp_path)} == {0: "1", 1: "2"}


def test_the_best_command_runs_as_it_is_printed(main, tmp_path, capsys) -> None:
    """Brackets mean something to shells, and a plus to Hydra."""
    swept = "+model.layers.0.kernel=[3,5],[5,3]"
    main("model=conv", swept, "-m", *ONE, f"hydra.sweep.dir={tmp_path}")
    best = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("Best: "))
    assert "'+model.layers.0.kernel=[" in best
    config = compose(*shlex.split(best.removeprefix("Best: convae train ")))
    assert config.model.layers[0].kernel in ([3, 5], [5, 3])


# ---- flags and overrides


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a=1 -m b=2", "-m a=1 b=2"),
        ("a=1 --config-dir my/dir b=2 -m", "--config-dir my/dir -m a=1 b=2"),
        ("a=1 --config-dir=my/dir", "--config-dir=my/dir a=1"),
        ("a=1 --cfg job -cn name ~b", "--cfg job -cn name a=1 ~b"),
        ("a=1 -i b=2", "-i a=1 b=2"),
        ("a=1 --info searchpath b=2", "--info searchpath a=1 b=2"),
        ("a=1 --config-n name b=2", "--config-n name a=1 b=2"),
        ("-h", "-h"),
        ("a=1 -cn", "-cn a=1"),
    ],
)
def test_flags_come_first(given: str, expected: str) -> None:
    assert ordered(given.split()) == expected.split()


def test_flags_may_follow_overrides(main, capsys) -> None:
    main("trainer.epochs=3", "--cfg", "job", "seed=5", "--package", "trainer")
    assert "epochs: 3" in capsys.readouterr().out


# ---- interruptions


def until(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.05)


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """A sweep of its own session, as a terminal has one: signals can be sent to all of it."""
    command = [sys.executable, "train.py", "-m", *words, f"hydra.sweep.dir={folder}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True, **pipes)


def commands_left(said: str) -> list[list[str]]:
    """The words of the commands for what is not done."""
    _, _, after = said.partition("Not done yet:\n")
    return [shlex.split(line) for line in after.splitlines() if line.startswith("  ")]


LONG = ("trainer.epochs=300", "trainer.checkpoint_every=300", "trainer.embeddings=0", "device=cpu")


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_the_whole_sweep(tmp_path, number: signal.Signals) -> None:
    process = start(tmp_path, "seed=1,2,3", *LONG)
    until(lambda: list(tmp_path.glob("0/best.safetensors")))
    process.send_signal(number)
    said, to_error = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"to resume: python train.py resume={tmp_path}/0" in to_error
    assert not (tmp_path / "1").exists()
    assert read_state(tmp_path / "0")[1]["progress"]["step"] > 0
    assert [row["run"] for row in collect(tmp_path)] == [0]
    assert (tmp_path / "results.csv").is_file()
    assert "validation_loss" in said  # the table is shown
    resume, *others = commands_left(said)
    assert resume == ["python", "train.py", f"resume={tmp_path}/0"]
    assert others == [
        ["python", "train.py", f"seed={seed}", *LONG, f"hydra.run.dir={tmp_path}/{seed - 1}"]
        for seed in (2, 3)
    ]


def test_commands_for_what_is_left_run_as_they_are_printed(
    main, tmp_path, monkeypatch, capsys
) -> None:
    """The first job fails, the second is interrupted, the third does not begin."""
    own = tmp_path / "own" / "experiment"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("# @package _global_\ntrainer: {probe: 7}\n")
    folder = tmp_path / "a sweep"
    right = convae.training.trainer.Trainer._end_epoch

    def interrupting(trainer, speed: float) -> None:
        right(trainer, speed)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(convae.training.trainer.Trainer, "_end_epoch", interrupting)
    flags = ("--config-dir", str(tmp_path / "own"))
    layers = ("model=conv", "model.layers.0.filters=0,3,4")
    words = (*layers, *ONE, "trainer.epochs=2", "experiment=mine", *flags)
    with pytest.raises(SystemExit) as caught:
        main(*words, "-m", override("hydra.sweep.dir", folder))
    assert caught.value.code == 128 + signal.SIGTERM
    monkeypatch.undo()
    said = commands_left(capsys.readouterr().out)
    assert len(said) == 2
    for convae_, train, *rest in said:
        assert (convae_, train) == ("convae", "train")
        main(*rest)
    table = list(csv.DictReader((folder / "results.csv").read_text().splitlines()))
    assert sorted(row["run"] for row in table if row["validation_loss"]) == ["1", "2"]
    assert "0 is too small" in (folder / "0" / "error.txt").read_text()
    assert read_state(folder / "2")[1]["configuration"]["trainer"]["probe"] == 7


def test_a_signal_outside_of_training_ends_the_sweep_at_once(
    main, tmp_path, monkeypatch, capsys
) -> None:
    def loading(config: Config, *rest) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr(entry, "run", loading)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        main("-m", "seed=1,2", *ONE, f"hydra.sweep.dir={tmp_path}")
    assert caught.value.code == 128 + signal.SIGTERM
    assert [words[-1] for words in commands_left(capsys.readouterr().out)] == [
        f"hydra.run.dir={tmp_path}/{number}" for number in (0, 1)
    ]
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_between_two_jobs_ends_the_sweep(main, tmp_path, monkeypatch, capsys) -> None:
    right = Jobs.launch

    def launch(jobs: Jobs, *arguments):
        right(jobs, *arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Jobs, "launch", launch)
    words = ("seed=1,2", "hydra.sweeper.max_batch_size=1", *ONE)
    with pytest.raises(SystemExit) as caught:
        main("-m", *words, f"hydra.sweep.dir={tmp_path}")
    assert caught.value.code == 128 + signal.SIGTERM
    (left,) = commands_left(capsys.readouterr().out)
    assert left[-1] == f"hydra.run.dir={tmp_path}/1"


# ---- workers


def of_session(leader: int) -> list[int]:
    """The processes of a session that are alive."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = status.read_text().rpartition(") ")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(session) == leader and state != "Z":
            found.append(int(status.parent.name))
    return found


JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")


@pytest.mark.slow
@pytest.mark.parametrize("everywhere", [False, True])
def test_workers_save_their_states_when_the_sweep_is_interrupted(
    tmp_path, everywhere: bool
) -> None:
    """Ctrl-C reaches the workers, too, among them one that has nothing to do."""
    needs_joblib()
    jobs = ("hydra.launcher.n_jobs=3", "seed=1,2") if everywhere else ("seed=1,2,3",)
    process = start(tmp_path, *JOBLIB, *jobs, *LONG)
    until(lambda: len(list(tmp_path.glob("*/best.safetensors"))) == 2)
    send = os.killpg if everywhere else os.kill
    send(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    for number in (0, 1):
        assert read_state(tmp_path / str(number))[1]["progress"]["step"] > 0
    left = [words[2:] for words in commands_left(said)]
    assert left[:2] == [[f"resume={tmp_path}/{number}"] for number in (0, 1)]
    if not everywhere:
        assert left[2] == ["seed=3", *LONG, f"hydra.run.dir={tmp_path}/2"]
        assert not has_state(tmp_path / "2")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_workers_stop_when_their_sweep_is_killed(tmp_path) -> None:
    needs_joblib()
    process = start(tmp_path, *JOBLIB, "seed=1,2,3,4", *LONG)
    until(lambda: len(list(tmp_path.glob("*/best.safetensors"))) == 2)
    process.kill()
    process.communicate(timeout=60)  # returns when the last worker has closed the pipes
    until(lambda: not of_session(process.pid))
    for number in (0, 1):
        assert read_state(tmp_path / str(number))[1]["progress"]["step"] > 0
    assert not has_state(tmp_path / "2")


@pytest.fixture
def sweep_of(monkeypatch) -> Callable[[int], None]:
    """Have this process believe that it is a worker of a process."""

    def pretend(parent: int) -> None:
        monkeypatch.setattr(signals, "_requested", 0)
        monkeypatch.setattr(workers, "_leads", False)
        parent_process = SimpleNamespace(pid=parent)
        monkeypatch.setattr(multiprocessing, "parent_process", lambda: parent_process)

    return pretend


def test_a_worker_stops_in_training_when_asked(sweep_of, tmp_path, monkeypatch) -> None:
    sweep_of(os.getppid())
    monkeypatch.setattr(workers, "SECONDS", 0.01)
    right = convae.training.trainer.Trainer._end_epoch

    def asking(trainer, speed: float) -> None:
        right(trainer, speed)
        (tmp_path / workers.STOP).touch()

    monkeypatch.setattr(convae.training.trainer.Trainer, "_end_epoch", asking)
    run = [*LONG, f"hydra.run.dir={tmp_path / 'run'}"]
    with workers.following(tmp_path), pytest.raises(Interrupted):
        convae.train(run)
    assert read_state(tmp_path / "run")[1]["progress"]["step"] > 0
    with workers.following(tmp_path) as is_wanted:
        assert not is_wanted


def test_an_orphan_ends_before_its_next_job(sweep_of, tmp_path, monkeypatch) -> None:
    sweep_of(os.getppid() + 1)
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    with workers.following(tmp_path) as is_wanted:
        assert not is_wanted
    assert ended == [128 + signal.SIGTERM]


def test_a_process_that_no_launcher_started_follows_nothing(tmp_path, monkeypatch) -> None:
    """Such as a run under nohup, which goes on when its shell has ended."""
    monkeypatch.setattr(os, "getppid", lambda: 1)
    (tmp_path / workers.STOP).touch()
    with workers.following(tmp_path) as is_wanted:
        assert is_wanted
        assert not workers.is_worker()


def test_the_leader_of_a_sweep_is_no_worker(sweep_of) -> None:
    """Not even where something else has started its process by multiprocessing."""
    sweep_of(os.getppid())
    assert workers.is_worker()
    workers.lead()
    assert not workers.is_worker()


def test_workers_share_the_cores(monkeypatch) -> None:
    joblib = pytest.importorskip("joblib")
    from convae.engine.cpu import threads

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    counts = joblib.Parallel(n_jobs=2, backend="loky")(
        joblib.delayed(threads.get_num_threads)() for _ in range(2)
    )
    assert counts == [max(1, threads.cores() // 2)] * 2
