"""Ways are tried in a child process, and what is found is kept."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import ModuleType

import pytest

import convae
from convae import Layer
from convae.engine.program import Problem, Program
from convae.models.gradient_program import GradientProgram
from convae.models.penalties import NONE
from tests.engine.gpu.test_ways import Doubled

pytestmark = pytest.mark.gpu


@pytest.fixture
def examination(cupy: ModuleType, monkeypatch, tmp_path: Path) -> ModuleType:
    """With a cache of its own."""
    from convae.engine.gpu import examination

    monkeypatch.setenv("CONVAE_CACHE", str(tmp_path))
    return examination


@pytest.fixture
def store(examination: ModuleType) -> ModuleType:
    from convae.engine.gpu import verdicts

    return verdicts


@pytest.fixture
def choosing(examination: ModuleType) -> ModuleType:
    from convae.engine.gpu import choice

    return choice


@pytest.fixture(scope="module")
def program() -> Program:
    model = convae.Autoencoder((1, 6, 6), [Layer(3, 3, stride=2, padding="same")])
    return GradientProgram(model, 4, NONE, False).program


def first_c(program: Program) -> Problem:
    return next(p for p in program.problems() if p.operation == "c")


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("raise", "RuntimeError: no such plan"),
        ("nan", "error inf, over 1e-05"),
        ("die", "the process that tried it died (SIGABRT)"),
        ("kill", "was ended by a signal"),
        ("hang", "it took over 120 seconds"),
        ("wild", "illegal memory access"),
        ("memory", "there was not enough memory to try it"),
    ],
)
def test_a_fault_stops_nothing_but_its_way(
    fault: str, says: str, store, examination, program, monkeypatch
) -> None:
    monkeypatch.setenv("PLANTED", fault)
    if fault == "hang":
        monkeypatch.setenv("PLANTED_SECONDS", "6")
    monkeypatch.setattr(examination, "CHILD", "tests.engine.gpu.planted")
    problem = first_c(program)
    trials = [examination.Trial(problem, name, False) for name in ("faulty", "tiles")]
    verdicts = examination.examine(trials)
    assert says in verdicts[trials[0]].refused
    assert verdicts[trials[1]].refused == ""
    assert verdicts[trials[1]].error < 1e-5
    assert verdicts[trials[1]].seconds > 0
    kept = store.read_cache()
    assert (trials[0].key in kept) == (fault not in ("memory", "kill"))
    assert kept[trials[1].key] == verdicts[trials[1]]


def own_ways() -> list[object]:
    """Without those of cuDNN, which some cards' machines have."""
    from convae.engine.gpu import ways

    return [ways.Narrow(), ways.Tiles(), ways.Passes()]


def test_a_child_that_does_not_start_refuses_all_once(
    store, choosing, examination, program, monkeypatch, caplog
) -> None:
    monkeypatch.setattr(examination, "CHILD", "tests.engine.gpu.no_such_module")
    monkeypatch.setattr(choosing, "ways", own_ways)
    chosen = choosing.Choice(convae.engine.backend_for("gpu"))(program)
    assert {chosen(problem).name for problem in program.problems()} == {"portable"}
    assert store.read_cache() == {}
    lines = [record.message for record in caplog.records if "not used" in record.message]
    assert len(lines) == 3  # narrow, tiles and passes
    assert "does not start" in lines[0]


def test_the_fastest_certified_way_is_chosen(
    store, choosing, examination, program, monkeypatch
) -> None:
    problem = first_c(program)

    def found(trials):
        times = {"tiles": 3.0, "narrow": 2.0}
        verdict = store.Verdict
        return {t: verdict(1e-7, times.get(t.name, 1.0)) for t in trials}

    monkeypatch.setattr(choosing, "examine", found)
    monkeypatch.setattr(choosing, "ways", own_ways)
    chosen = choosing.Choice(convae.engine.backend_for("gpu"))(program)
    assert chosen(problem).name == "tiles"
    others = {p.operation: chosen(p).name for p in program.problems()}
    assert others["error"] == "narrow"
    assert others["bias_gradient"] == "passes"


def test_ways_that_break_the_identity_are_not_used(
    store, choosing, examination, program, monkeypatch, caplog, cupy
) -> None:
    """As if a wrong way had been certified."""
    monkeypatch.setattr(choosing, "ways", lambda: [Doubled()])
    right = store.Verdict(1e-7, 1.0)

    def examine(trials):
        """Believe single ways, and try whether three are each other's in this process."""
        three = [trial for trial in trials if trial.others]
        own = {"faulty": Doubled()}
        tried = {trial: examination._try(own, trial)[0] for trial in three}
        examination.report_refusals(tried)
        return dict.fromkeys(trials, right) | tried

    monkeypatch.setattr(choosing, "examine", examine)
    for wrong, name in ((1, "faulty"), (2, "portable")):
        monkeypatch.setattr(
            Doubled,
            "spoil",
            lambda s, arrays, out, by=wrong: out.__imul__(by if "dK" in arrays else 1),
        )
        chosen = choosing.Choice(convae.engine.backend_for("gpu"))(program)
        assert chosen(first_c(program)).name == name
    assert "<c(K, V), G> and the others differ" in caplog.text


def test_what_is_known_is_not_tried_again(
    choosing, examination, program, monkeypatch, caplog
) -> None:
    caplog.set_level(logging.INFO)
    choice = choosing.Choice(convae.engine.backend_for("gpu"))
    choice(program)
    assert "certifying" in caplog.text
    monkeypatch.setattr(examination, "run_trials", lambda trials: pytest.fail("tried again"))
    chosen = choice(program)
    assert chosen(first_c(program)).name == "tiles"


def test_a_damaged_cache_is_no_cache(store, examination) -> None:
    path = store.cache_file()
    path.parent.mkdir(parents=True)
    for content in ("{", "[]", '{"verdicts": {"a": {"speed": 1}}}', '{"verdicts": []}'):
        path.write_text(content)
        assert store.read_cache() == {}


def test_another_card_or_other_kernels_have_another_cache(store, examination, monkeypatch) -> None:
    before = store.cache_file()
    for name in store.setting():
        changed = {**store.setting(), name: "another"}
        with monkeypatch.context() as patch:
            patch.setattr(store, "setting", lambda changed=changed: changed)
            assert store.cache_file() != before


def test_the_cache_says_what_it_belongs_to(store, examination, program) -> None:
    store.write_cache({"a": store.Verdict(refused="no")})
    store.write_cache({"b": store.Verdict(1e-7, 1e-5)})
    content = json.loads(store.cache_file().read_text())
    assert content["setting"]["cupy"]
    assert set(content["verdicts"]) == {"a", "b"}
