"""README, CONTRIBUTING and documentation: their code runs, their commands compose, files exist."""

from __future__ import annotations

import doctest
import re
import shlex
import subprocess
import sys

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from convae.app import cli
from convae.keys import unknown_key
from tests.helpers import OPTIONS, REPOSITORY, compose

DOCS = [path for path in sorted((REPOSITORY / "docs").rglob("*.md")) if "_build" not in path.parts]
PAGES = {
    str(path.relative_to(REPOSITORY)): path.read_text()
    for path in (REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *DOCS)
}
NOT_RUN = r"(?:<!-- not run: (?P<reason>.+?) -->\n+)?"
FENCED = re.compile(rf"{NOT_RUN}^```(?P<kind>.*)\n(?P<text>(?s:.*?))^```$", re.M)


def blocks(text: str, kind: str) -> list[str]:
    """Fenced blocks of a kind, without those that a comment excludes."""
    found = FENCED.finditer(text)
    return [each["text"] for each in found if each["kind"] == kind and not each["reason"]]


def code_spans(text: str) -> list[str]:
    """What stands between single backticks; such a span may go over the end of a line."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", FENCED.sub("", text))]


def commands(text: str, name: str) -> list[list[str]]:
    """Words after a command's name, wherever a page says it; placeholders are left out."""
    shell = [block.replace("\\\n", " ") for block in blocks(text, "bash")]
    lines = [line for block in shell for line in block.splitlines()]
    whole = [part.strip() for line in [*lines, *code_spans(text)] for part in line.split("&&")]
    said = [line.partition("#")[0] for line in whole if f"{line} ".startswith(f"{name} ")]
    words = [shlex.split(line.removeprefix(name)) for line in said]
    return [each for each in words if "..." not in each]


TRAINING = sorted(
    {
        (page, shlex.join(words))
        for page, text in PAGES.items()
        for name in ("python train.py", "convae train")
        for words in commands(text, name)
    }
)
OTHERS = sorted(
    {
        (page, shlex.join(words))
        for page, text in PAGES.items()
        for words in commands(text, "convae")
        if words and words[0] not in ("train", "--help")
    }
)


def test_the_pages_are_read() -> None:
    """A page with everything, since a pattern that finds nothing tests nothing."""
    page = """
`python train.py
seed=1` or `convae train ...`
<!-- not run: it takes a day -->
```python
import nothing
```
```python
import convae
```
```bash
cd here && python train.py -m seed=1,2 \\
  dtype=float64  # two runs
```
"""
    assert blocks(page, "python") == ["import convae\n"]
    assert commands(page, "python train.py") == [["-m", "seed=1,2", "dtype=float64"], ["seed=1"]]
    assert commands(page, "convae train") == []
    assert any("python" in kind for kind in re.findall("^```(.*)", PAGES["README.md"], re.M))
    assert any(page == "README.md" for page, _ in TRAINING)


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if blocks(text, "python")])
def test_code_runs(page: str, tmp_path) -> None:
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks(PAGES[page], "python")))
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def checked(page: str, text: str) -> doctest.TestResults:
    """Run a page's sessions with Python, and compare what they print."""
    session = "\n".join(blocks(text, "pycon"))
    test = doctest.DocTestParser().get_doctest(session, {}, page, page, 0)
    return doctest.DocTestRunner().run(test, out=lambda report: None)


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if blocks(text, "pycon")])
def test_sessions_print_what_they_show(page: str) -> None:
    found = checked(page, PAGES[page])
    assert found.attempted > 0
    assert found.failed == 0


def test_sessions_that_print_something_else_are_found() -> None:
    assert checked("page", "```pycon\n>>> 1 + 1\n3\n\n```\n").failed == 1


def single_run(words: list[str]) -> list[str]:
    """The overrides of one run, or of the first run of a sweep."""
    overrides = OverridesParser.create().parse_overrides([word for word in words if "=" in word])
    found = []
    for override in overrides:
        if override.is_choice_sweep():
            found.append(f"{override.get_key_element()}={next(override.sweep_string_iterator())}")
        elif not override.is_sweep_override():
            found.append(override.input_line)
    return found


@pytest.mark.parametrize(("page", "command"), TRAINING)
def test_training_commands_compose(page: str, command: str, tmp_path) -> None:
    words = shlex.split(command)
    assert unknown_key(words) is None
    if "--config-dir" in words:  # a file of the reader's own, which says nothing
        place = words.index("--config-dir")
        del words[place : place + 2]
        group, _, option = words[-1].lstrip("+").partition("=")
        (tmp_path / group).mkdir()
        (tmp_path / group / f"{option}.yaml").write_text("# @package _global_\n")
        words.append(f"hydra.searchpath=[file://{tmp_path}]")
    compose(*single_run(words))


@pytest.mark.parametrize(("page", "command"), OTHERS)
def test_other_commands_are_understood(page: str, command: str) -> None:
    name, *arguments = shlex.split(command)
    known = cli.main.commands[name]
    if arguments and "--help" not in arguments:
        known.make_context(name, arguments)


@pytest.mark.parametrize("page", PAGES)
def test_files_exist(page: str) -> None:
    text, folder = PAGES[page], (REPOSITORY / page).parent
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", FENCED.sub("", text))
    images = re.findall(r"^```\{image\} (.+)$", text, re.M)
    entries = [
        f"{line}.md"
        for block in re.findall(r"^```\{toctree\}\n((?s:.*?))^```", text, re.M)
        for line in block.splitlines()
        if line and not line.startswith(":")
    ]
    missing = [name for name in (*links, *images, *entries) if not (folder / name.strip()).exists()]
    places = "benchmarks|configs|convae|docs|examples|tests"
    for span in code_spans(text):
        if re.fullmatch(rf"(?:{places})/[\w/.-]*(?:\.\w+|/)", span) and "_build" not in span:
            missing += [span] if not (REPOSITORY / span).exists() else []
    assert not missing


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_is_named(option: str) -> None:
    patterns = (f"`{option.partition('=')[2]}`", rf"{option}\b")
    assert any(re.search(pattern, text) for text in PAGES.values() for pattern in patterns)


def test_results_are_those_that_the_benchmarks_kept() -> None:
    kept = "".join(file.read_text() for file in (REPOSITORY / "benchmarks/results").glob("*.md"))
    for page, text in PAGES.items():
        for row in re.findall(r"^\| `model=\w+` \|.*0\.0.*$|^\| (?:\d|mean) \| .*$", text, re.M):
            assert row in kept, page
