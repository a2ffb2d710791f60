"""run=: a folder in which a run begins, or goes on."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import convae
from convae.app.launch import settle
from convae.errors import UserError
from convae.models.loading import BEST
from tests.helpers import SHORT

WORDS = (*SHORT, "trainer.embeddings=0", "device=cpu")


def test_one_command_begins_and_goes_on(tmp_path) -> None:
    run = tmp_path / "run"
    first = convae.train([*WORDS, "trainer.epochs=1", f"run={run}"])
    assert first.directory == run
    again = convae.train([*WORDS, "trainer.epochs=1", f"run={run}"])
    assert again.figures == first.figures
    longer = convae.train([*WORDS, "trainer.epochs=3", f"run={run}"])
    whole = convae.train([*WORDS, "trainer.epochs=3", f"run={tmp_path / 'whole'}"])
    assert longer.figures["best_epoch"] == whole.figures["best_epoch"] > 1
    assert [path.name for path in tmp_path.iterdir()].count("run_2") == 0


def test_on_the_command_line(main, tmp_path, capsys) -> None:
    run = tmp_path / "a run (1)"
    for _ in range(2):
        main(*WORDS, "trainer.epochs=1", f'run="{run}"')
    assert "all epochs are done" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == [run.name]


def test_a_folder_without_a_state_is_begun(tmp_path) -> None:
    """As it is left by a process that was killed before its first state."""
    run = tmp_path / "run"
    (run / ".hydra").mkdir(parents=True)
    (run / "train.log").write_text("")
    result = convae.train([*WORDS, "trainer.epochs=1", f"run={run}"])
    assert result.directory == run


def test_what_was_said_at_the_start_is_not_said_again(tmp_path) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text("- dataset=mnist\n- seed=1\n")
    (tmp_path / "state-000000003.safetensors").touch()
    words = ["dataset=mnist", f"run={tmp_path}", "seed=2", "--config-dir", "x"]
    assert settle(words) == ["--config-dir", "x", f"resume={tmp_path}", "seed=2"]
    assert settle(["dataset=mnist"]) == ["dataset=mnist"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run="], "run: '' is no folder"),
        (["run=null"], "run: None is no folder"),
        (["run=3"], "run: 3 is no folder; quote"),
        (["run=a", "run=b"], "one folder is named once"),
        (["run=a", "resume=b"], "without resume or hydra.run.dir"),
        (["run=a", "hydra.run.dir=b"], "without resume or hydra.run.dir"),
        (["run=a", "-m"], "run: is for a single run"),
    ],
)
def test_what_makes_no_sense(main, words: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        settle(words)
    with pytest.raises(SystemExit, match=says):
        main(*words)


def test_a_folder_whose_states_are_gone_is_refused(tmp_path) -> None:
    (tmp_path / BEST).touch()
    with pytest.raises(UserError, match="holds a run already, whose states are gone"):
        settle([f"run={tmp_path}"])


def test_a_process_alone_does_not_import_what_others_need(tmp_path) -> None:
    words = [*WORDS, "trainer.epochs=1", "run=run"]
    code = (
        f"import sys, convae; convae.train({words}); "
        "assert 'convae.training.distributed' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_an_environment_that_says_nothing_of_other_processes(monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    group = convae.join()
    assert (group.rank, group.size, group.is_first) == (0, 1, True)
    share = group.share(7)
    assert (share.rows, share.weight) == (slice(0, 7), 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UserError, match="RANK: not set, but WORLD_SIZE says"):
        convae.join()


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("whole", [1, 2, 6, 7, 64])
def test_shares_are_all_there_is(whole: int, size: int) -> None:
    from convae.processes import Group

    shares = []
    for rank in range(size):
        group = Group()
        group.rank, group.size = rank, size
        shares.append(group.share(whole))
    rows = np.concatenate([np.arange(whole)[s.rows] for s in shares if s.count])
    assert (rows == np.arange(whole)).all()
    assert sum(share.weight for share in shares) == pytest.approx(1)
    assert max(s.count for s in shares) - min(s.count for s in shares) <= 1
    assert all(len(np.arange(whole)[share.rows]) for share in shares)
