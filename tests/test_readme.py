"""The README's scripts run and its commands compose; .ci/run types its two set-up commands."""

from __future__ import annotations

import re
import shlex

import pytest

from convae.configuration import unknown_key
from tests.conftest import REPOSITORY
from tests.test_configuration import GROUPS, compose

README = (REPOSITORY / "README.md").read_text()
SCRIPTS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = sorted(set(re.findall(r"python train\.py ((?:[\w.-]+=|-m |--cfg )[^\n`;&]*)", README)))


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_run(script: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(script, "README.md", "exec"), {})


@pytest.mark.parametrize("command", [c for c in COMMANDS if "group=option" not in c])
def test_commands_compose(command: str) -> None:
    words = [word for word in shlex.split(command) if "=" in word]
    assert unknown_key(words) is None
    compose(*(word.partition(",")[0] for word in words if "(" not in word and "/" not in word))


def test_there_are_scripts_and_commands() -> None:
    assert len(SCRIPTS) >= 2
    assert len(COMMANDS) >= 5


def test_results_in_the_readme_are_those_that_the_benchmarks_kept() -> None:
    kept = "".join(file.read_text() for file in (REPOSITORY / "benchmarks/results").glob("*.md"))
    rows = [line for line in README.splitlines() if line.startswith("| `model=") and "0.0" in line]
    assert len(rows) == 3
    anomalies = [line for line in README.splitlines() if re.match(r"\| (\d|mean) \| ", line)]
    assert len(anomalies) == 11
    assert all(row in kept for row in rows + anomalies)


def test_files_that_the_readme_names_exist() -> None:
    for path in re.findall(
        r"\(((?:docs|benchmarks)/[^)]+)\)|`((?:convae|tests)/[\w/]+\.py)`", README
    ):
        assert (REPOSITORY / (path[0] or path[1])).is_file(), path


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_is_in_the_readme(group: str) -> None:
    for file in (REPOSITORY / "configs" / group).glob("*.yaml"):
        assert f"`{file.stem}`" in README, f"{group}={file.stem}"
