"""Searches with Optuna: what may be searched, studies that go on, pruning."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from convae.app import entry
from convae.app.search import database, distribution
from convae.app.sweeps import collect
from convae.errors import UserError
from tests.app.test_sweeps import LONG, ONE, check_table, commands_left, needs_joblib, start, until
from tests.helpers import run_train

optuna = pytest.importorskip("optuna")
from optuna.distributions import (  # noqa: E402
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState  # noqa: E402

RATE = "optimizer.learning_rate"


def trials_of(folder: Path, name: str = "search") -> list[optuna.trial.FrozenTrial]:
    with database(f"sqlite:///{folder}/study.db") as storage:
        return optuna.load_study(study_name=name, storage=storage).trials


def states(folder: Path) -> list[str]:
    return [trial.state.name for trial in trials_of(folder)]


@pytest.fixture
def search(main, tmp_path) -> Callable[..., None]:
    """Add trials to a search in the test's folder."""

    def call(*words: str, trials: int = 1, folder: Path = tmp_path) -> None:
        own = ("hydra/sweeper=search", f"hydra.sweeper.n_trials={trials}")
        main("-m", *own, *ONE, f"hydra.sweep.dir={folder}", *words)

    return call


# ---- what may be searched


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("a,b", CategoricalDistribution(["a", "b"])),
        ("null,0.5", CategoricalDistribution(["null", "0.5"])),
        ("choice(1,[3,5],1)", CategoricalDistribution(["1", "[3,5]"])),
        ("shuffle(range(1,4))", None),
        ("range(1,8)", IntDistribution(1, 7)),
        ("range(1,8,3)", IntDistribution(1, 7, step=3)),
        ("range(1,7,3)", IntDistribution(1, 4, step=3)),
        ("range(8,1,-3)", IntDistribution(2, 8, step=3)),
        ("range(0.1,0.5,0.1)", FloatDistribution(0.1, 0.4, step=0.1)),
        ("interval(1,8)", FloatDistribution(1, 8)),
        ("int(interval(1,8))", IntDistribution(1, 8)),
        ("tag(log,interval(0.001,0.1))", FloatDistribution(0.001, 0.1, log=True)),
        ("tag(log,int(interval(2,64)))", IntDistribution(2, 64, log=True)),
        ("int(tag(log,interval(2,64)))", IntDistribution(2, 64, log=True)),
    ],
)
def test_values_are_those_of_the_command_line(values: str, expected) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"key={values}"])
    found = distribution(override)
    if expected is None:
        assert sorted(found.choices) == ["1", "2", "3"]
    else:
        assert found == expected


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ("interval(2,1)", "low <= high"),
        ("tag(log,interval(0,1))", "low > 0"),
        ("tag(lin,interval(0,1))", "the tag lin is unknown here; expected log, on interval"),
        ("tag(log,choice(1,2))", "the tag log is unknown here"),
        ("range(3,1)", "the range is empty"),
    ],
)
def test_what_cannot_be_searched_is_named(values: str, says: str) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"key={values}"])
    with pytest.raises(UserError) as caught:
        distribution(override)
    assert str(caught.value).startswith(f"key={values}: ")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["seed=1"], "no key has several values"),
        ([f"{RATE}=interval(1"], "interval(1"),
        (["model=conv,nosuch"], "model/nosuch"),
        (["seed=1,2", "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials: 0 is out of range"),
        (["seed=1,2", "hydra.sweeper.n_jobs=0"], "hydra.sweeper.n_jobs: 0 is too small"),
        (["seed=1,2", "hydra.sweeper.n_trial=3"], "n_trial"),
        (["seed=1,2", "hydra.job.chdir=true"], "hydra.job.chdir: a search needs its jobs in one"),
        (["seed=1,2", "hydra.sweeper.sampler=tpe"], "hydra.sweeper.sampler: 'tpe'; expected a"),
        (["seed=1,2", "hydra.sweeper.sampler.name=x"], "hydra.sweeper.sampler.name: 'x' is"),
        (["seed=1,2", "hydra.sweeper.pruning=true"], "hydra.sweeper.pruning: True; expected"),
        (["seed=1,2", "hydra.sweeper.storage=there"], "hydra.sweeper.storage: 'there' cannot be"),
        (["seed=1,2", "hydra.sweeper.storage=null"], "hydra.sweeper.storage: None is not a name"),
    ],
)
def test_mistakes_are_told_before_the_first_job(search, tmp_path, words, says: str) -> None:
    with pytest.raises(SystemExit) as caught:
        search(*words)
    assert str(caught.value.code).startswith("error: ")
    assert says in str(caught.value.code)
    assert not (tmp_path / "0").exists()


def test_without_optuna_the_message_says_what_to_install(search, monkeypatch) -> None:
    monkeypatch.setattr(optuna, "__version__", "2.10.1")
    with pytest.raises(SystemExit, match=r"Optuna 5 or later, but there is version 2\.10\.1 of it"):
        search("seed=1,2")
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SystemExit, match=r"there is none: pip install -e '\.\[sweeps\]'"):
        search("seed=1,2")


# ---- studies


def test_a_search_goes_on_where_it_was(search, tmp_path, capsys) -> None:
    filters = ("model=conv", "model.layers.0.filters=int(interval(4,8))")
    words = (f"{RATE}=tag(log,interval(0.0005,0.01))", *filters)
    search(*words, trials=2)
    output = capsys.readouterr().out
    assert "0 trials so far, 2 to add" in output
    check_table(tmp_path, output, 2)
    before = {path: path.read_bytes() for path in tmp_path.glob("[01]/**/*") if path.is_file()}

    search(*words)
    output = capsys.readouterr().out
    assert "2 trials so far (2 complete), 1 to add" in output
    check_table(tmp_path, output, 3)
    assert before == {p: p.read_bytes() for p in tmp_path.glob("[01]/**/*") if p.is_file()}

    trials = trials_of(tmp_path)
    rows = {row["run"]: row for row in collect(tmp_path)}
    assert sorted(rows) == [trial.number for trial in trials] == [0, 1, 2]
    assert len({trial.params[RATE] for trial in trials}) == 3  # the sampler does not begin again
    for trial in trials:
        row = rows[trial.number]
        assert 0.0005 <= float(row[RATE]) == trial.params[RATE] <= 0.01
        assert (
            4 <= int(row["model.layers.0.filters"]) == trial.params["model.layers.0.filters"] <= 8
        )
        assert row["trainer.epochs"] == "1"  # what is fixed stays fixed
        assert row["validation_loss"] == trial.value


def test_files_may_say_what_is_searched(search, tmp_path, main) -> None:
    search("experiment=sizes", "hydra.sweeper.sampler.name=random", trials=1)
    (trial,) = trials_of(tmp_path)
    assert trial.distributions == {
        "model.layers.0.filters": CategoricalDistribution(["8", "16", "32"])
    }
    with pytest.raises(SystemExit, match="no key has several values"):
        search("experiment=sizes", "model.layers.0.filters=8")


@pytest.mark.slow
def test_a_storage_of_ones_own_numbers_jobs_by_trials(search, tmp_path) -> None:
    own = (f"{RATE}=interval(0.001,0.01)", f"hydra.sweeper.storage=sqlite:///{tmp_path}/study.db")
    search(*own, "hydra.sweeper.study_name=mine", folder=tmp_path / "first")
    search(*own, "hydra.sweeper.study_name=mine", folder=tmp_path / "second")
    assert [trial.state for trial in trials_of(tmp_path, "mine")] == [TrialState.COMPLETE] * 2
    assert (tmp_path / "first" / "0" / "summary.json").is_file()
    assert (tmp_path / "second" / "1" / "summary.json").is_file()
    search(*own, "hydra.sweeper.study_name=other", folder=tmp_path / "second")
    assert (tmp_path / "second" / "2" / "summary.json").is_file()  # 0 would be free, but less clear


@pytest.mark.slow
def test_another_space_under_the_same_name_is_refused(search, tmp_path) -> None:
    search("seed=1,2")
    with pytest.raises(SystemExit, match=r"seed: the study 'search' is there, with other values"):
        search("seed=3,4")
    assert not (tmp_path / "1").exists()
    assert states(tmp_path) == ["COMPLETE"]


def test_a_failed_job_is_a_failed_trial_and_the_search_goes_on(search, tmp_path) -> None:
    with pytest.raises(SystemExit, match="2 of the runs failed"):
        search("model=conv", "model.layers.0.filters=int(interval(0,0))", trials=2)
    assert states(tmp_path) == ["FAIL", "FAIL"]
    search(f"{RATE}=interval(0.001,0.01)")  # earlier failures are not this call's
    assert states(tmp_path) == ["FAIL", "FAIL", "COMPLETE"]


def test_a_loss_that_is_not_finite_is_a_failed_trial(search, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(
        entry,
        "run",
        lambda *arguments: type("R", (), {"figures": {"validation_loss": float("inf")}}),
    )
    search("seed=1,2")
    assert states(tmp_path) == ["FAIL"]


def test_trials_of_a_killed_search_are_settled(search, tmp_path, capsys) -> None:
    """One was resumed by hand since then, two were not, one belongs to a search at work."""
    other, live = tmp_path / "other", tmp_path / "live"
    (other / "5").mkdir(parents=True)
    (other / "5" / "summary.json").write_text(json.dumps({"validation_loss": 0.25}))
    live.mkdir()
    space = {"seed": CategoricalDistribution(["1", "2"])}
    with database(f"sqlite:///{tmp_path}/study.db") as storage:
        study = optuna.create_study(study_name="search", storage=storage)
        for sweep, job in ((other, 5), (other, 6), (live, 0)):
            trial = study.ask(space)
            trial.set_user_attr("sweep", os.fspath(sweep))
            trial.set_user_attr("job", job)
        study.ask(space)
    with FileLock(live / ".lock"):
        search("seed=1,2")
    assert states(tmp_path) == ["COMPLETE", "FAIL", "RUNNING", "FAIL", "COMPLETE"]
    assert trials_of(tmp_path)[0].value == 0.25
    assert "4 trials so far (1 complete, 2 fail, 1 running), 1 to add" in capsys.readouterr().out


# ---- pruning

GOOD, BAD = f"{RATE}=interval(0.004,0.005)", f"{RATE}=interval(1e-9,2e-9)"
EARLY = ("hydra.sweeper.pruning.startup_trials=1", "hydra.sweeper.pruning.warmup_epochs=0")


def test_a_job_that_is_worse_than_the_median_is_pruned(search, tmp_path, capsys) -> None:
    search(GOOD, "trainer.epochs=3")
    search(BAD, "trainer.epochs=3", *EARLY)  # and ends without an error
    assert "pruned after epoch 1" in capsys.readouterr().out
    assert states(tmp_path) == ["COMPLETE", "PRUNED"]
    finished, pruned = trials_of(tmp_path)
    assert sorted(finished.intermediate_values) == [1, 2, 3]
    assert sorted(pruned.intermediate_values) == [1]
    table = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert [(row["run"], row["pruned"]) for row in table] == [("0", ""), ("1", "1.0")]
    assert float(table[1]["validation_loss"]) == pytest.approx(pruned.value)
    assert {"best.safetensors", "last.safetensors", "summary.json"} <= set(
        os.listdir(tmp_path / "1")
    )


@pytest.mark.slow
def test_pruning_can_be_switched_off(search, tmp_path) -> None:
    search(GOOD, "trainer.epochs=2")
    search(BAD, "trainer.epochs=2", "hydra.sweeper.pruning=null")
    assert states(tmp_path) == ["COMPLETE", "COMPLETE"]
    assert sorted(trials_of(tmp_path)[1].intermediate_values) == [1, 2]


@pytest.mark.slow
def test_jobs_in_other_processes_are_pruned_too(tmp_path) -> None:
    needs_joblib()
    words = ("hydra/sweeper=search", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    words = ("-m", *words, "hydra.sweeper.n_trials=2", *ONE, "trainer.epochs=3", *EARLY)
    for rates in (GOOD, BAD):
        done = run_train(*words, rates, f"hydra.sweep.dir={tmp_path}")
        assert done.returncode == 0, done.stderr
    assert states(tmp_path) == ["COMPLETE", "COMPLETE", "PRUNED", "PRUNED"]
    assert [row["run"] for row in collect(tmp_path)[:2]] in ([0, 1], [1, 0])


# ---- interruptions


@pytest.mark.slow
def test_an_interrupted_search_goes_on_by_its_own_command(tmp_path) -> None:
    short = ("trainer.epochs=100", "trainer.embeddings=0", "device=cpu", "dataset.limit=64")
    words = ("hydra/sweeper=search", "hydra.sweeper.n_trials=2", f"{RATE}=interval(0.001,0.01)")
    process = start(tmp_path, *words, *short)
    until(lambda: list(tmp_path.glob("0/best.safetensors")))
    process.terminate()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + 15
    assert states(tmp_path) == ["RUNNING"]
    resume, go_on = commands_left(said)
    assert resume[2:] == [f"resume={tmp_path}/0"]
    for command in (resume, go_on):
        done = run_train(*command[2:])
        assert done.returncode == 0, done.stderr
    assert states(tmp_path) == ["COMPLETE", "COMPLETE"]
    assert "1 trials so far (1 complete), 1 to add" in done.stdout


@pytest.mark.slow
def test_a_killed_search_goes_on(tmp_path) -> None:
    words = ("hydra/sweeper=search", f"{RATE}=interval(0.001,0.01)")
    process = start(tmp_path, *words, *LONG)
    until(lambda: list(tmp_path.glob("0/best.safetensors")))
    process.kill()
    process.communicate(timeout=60)
    again = ("-m", *words, *ONE, "hydra.sweeper.n_trials=1", f"hydra.sweep.dir={tmp_path}")
    done = run_train(*again)
    assert done.returncode == 0, done.stderr
    assert states(tmp_path) == ["FAIL", "COMPLETE"]
    assert (tmp_path / "1" / "summary.json").is_file()
    overrides = OmegaConf.load(tmp_path / "0" / ".hydra" / "overrides.yaml")
    assert "trainer.epochs=300" in overrides  # the killed job's files are its own
