"""Damaged and crafted states: a run resumes from the one before, or says that there is none."""

from __future__ import annotations

import copy
import faulthandler
import os
import random
import shutil
from collections.abc import Callable, Iterator
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convae
from convae.errors import UserError
from convae.models import checkpoint
from convae.models.loading import BEST, LAST
from convae.training.state import LAYOUT, read_state

RUN = (
    "device=cpu",
    "model.layers=[{filters: 3, kernel: 3, stride: 2}, {filters: 2, kernel: input}]",
    "corruption=gaussian",
    "schedule=plateau",
    "dataset.limit=64",
    "dataset.evaluation_limit=16",
    "trainer.epochs=3",
    "trainer.batch_size=16",
    "trainer.probe=2",
    "trainer.embeddings=0",
    "trainer.ema=0.9",
    "trainer.checkpoint_minutes=0",
    "trainer.keep_states=99",
)
"""Three epochs of four steps, and a state after every step."""

OLDER, NEWEST, UNREACHED = (f"state-{step:09d}.safetensors" for step in (5, 6, 99))
"""Two states in the middle of the second epoch, and the name of one that no run writes."""

MISSING = object()

INTEGERS = ("7", [7], None, True, 1.5, nan, -1, 10**12, MISSING)
REALS = ("0.1", [0.1], None, True, nan, -inf, MISSING)
TEXTS = (5, None, [], True, "nonsense", MISSING)
MAPPINGS = (5, None, [], "text", True, MISSING)
FIELDS = {
    "optimizer_steps": INTEGERS,
    "configuration": MAPPINGS,
    "configuration.trainer": MAPPINGS[:-1],
    "configuration.trainer.epochs": ("many", None, [], -1),
    "configuration.augmentation.flip": (None,),
    "configuration.trainer.from_the_future": (1,),
    "configuration.model.layers": (5, None, "text", [7], [{"filters": "many", "kernel": 3}]),
    "progress": MAPPINGS,
    "progress.step": INTEGERS,
    "progress.epoch": INTEGERS,
    "progress.batch": INTEGERS,
    "progress.steps_per_epoch": (*INTEGERS[:-2], 0, MISSING),
    "progress.steps": (*INTEGERS[:-2], MISSING),
    "progress.best_epoch": INTEGERS,
    "progress.best_loss": REALS,
    "progress.from_the_future": (1,),
    "progress.loss": TEXTS,
    "progress.run": (*TEXTS[:-2], MISSING),
    "progress.data": MAPPINGS,
    "progress.data.train": (5, None, [], MISSING),
    "progress.schedule": MAPPINGS,
    "progress.schedule.lowest": REALS,
    "progress.schedule.current": (*REALS, -1.0, 0, 2),
    "progress.schedule.waited": (*INTEGERS[:-2], MISSING),
    "progress.whole": MAPPINGS,
    "progress.whole.total": REALS,
    "progress.whole.images": (*INTEGERS[:-2], MISSING),
    "progress.recent": MAPPINGS,
    "progress.recent.total": REALS,
    "progress.recent.images": (*INTEGERS[:-2], MISSING),
    "progress.order": (*MAPPINGS, {}),
    "progress.order.bit_generator": (*TEXTS, "MT19937"),
    "progress.order.state": (*MAPPINGS, {}),
    "progress.order.state.inc": ("7", [7], None, nan, -1, 2**200, MISSING),
    "progress.order.has_uint32": ("7", [7], None, nan, -1, MISSING),
}
"""Wrong values of what a state describes."""

ARRAYS = (
    "model.0.kernel",
    "model.1.hidden_bias",
    "optimizer.first_moment",
    "optimizer.second_moment",
    "average",
    "best.0.kernel",
    "best.1.visible_bias",
)
CHANGES: dict[str, Callable[[np.ndarray], np.ndarray | None]] = {
    "NaN": lambda array: filled(array, nan),
    "inf": lambda array: filled(array, inf),
    "float64": lambda array: array.astype("float64"),
    "float16": lambda array: array.astype("float16"),
    "int32": lambda array: array.astype("int32"),
    "bool": lambda array: array > 0,
    "longer": lambda array: np.concatenate([array, array]),
    "shorter": lambda array: array[:-1],
    "another shape": lambda array: array[None],
    "empty": lambda array: array[:0],
    "missing": lambda array: None,
}
UNKNOWN = ("model.9.kernel", "optimizer.velocity", "best.9.kernel")


def filled(array: np.ndarray, value: float) -> np.ndarray:
    """The array with its last number replaced."""
    changed = array.copy()
    changed.reshape(-1)[-1] = value
    return changed


def replaced(path: Path, field: str, value: Any) -> None:
    """Replace a value of a state's description; the digest matches."""
    arrays, description = checkpoint.read(path)
    *above, name = field.split(".")
    node = description = copy.deepcopy(description)
    for key in above:
        node = node[key]
    if value is MISSING:
        del node[name]
    else:
        node[name] = value
    checkpoint.write(path, arrays, description)


def rearranged(path: Path, name: str, change: str) -> None:
    """Change one of a state's arrays; the digest matches."""
    arrays, description = checkpoint.read(path)
    changed = CHANGES[change](arrays.pop(name))
    if changed is not None:
        arrays[name] = changed
    checkpoint.write(path, arrays, description)


def enlarged(path: Path, name: str) -> None:
    """Add an array that does not belong there."""
    arrays, description = checkpoint.read(path)
    checkpoint.write(path, {**arrays, name: np.ones(3, "float32")}, description)


def negative(path: Path) -> None:
    """Make a mean of squares negative."""
    arrays, description = checkpoint.read(path)
    arrays["optimizer.second_moment"] = filled(arrays["optimizer.second_moment"], -1)
    checkpoint.write(path, arrays, description)


def damaged(path: Path, seed: int) -> None:
    """Cut the file, or flip bits."""
    draw, content = random.Random(seed), bytearray(path.read_bytes())
    if seed % 2:
        del content[draw.randrange(len(content)) :]
    else:
        for _ in range(draw.choice((1, 5))):
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def special(path: Path, kind: str) -> None:
    """Put something that is no file in its place, or a file of another kind."""
    if kind == "a model":
        arrays, description = checkpoint.read(path)
        best = {n.removeprefix("best."): a for n, a in arrays.items() if n.startswith("best.")}
        checkpoint.write(path, best, {"model": description["model"]})
        return
    path.unlink()
    if kind == "an empty file":
        path.touch()
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a dangling link":
        path.symlink_to("nowhere")
    elif kind == "a looping link":
        path.symlink_to(path.name)
    else:
        os.mkfifo(path)


FILES = ["a model", "an empty file", "a folder", "a dangling link", "a looping link"]
if hasattr(os, "mkfifo"):
    FILES.append("a pipe")

Case = tuple[Callable[..., None], tuple[Any, ...]]

CASES: list[Case] = [
    *((replaced, (field, value)) for field, values in FIELDS.items() for value in values),
    *((rearranged, (name, change)) for name in ARRAYS for change in CHANGES),
    *((enlarged, (name,)) for name in UNKNOWN),
    (negative, ()),
    *((special, (kind,)) for kind in FILES),
]
CASES += [(damaged, (seed,)) for seed in range(350 - len(CASES))]

QUICK: list[Case] = [
    (replaced, ("progress.order", MISSING)),
    (replaced, ("optimizer_steps", MISSING)),
    (replaced, ("configuration.trainer.epochs", None)),
    (replaced, ("progress.step", -1)),
    (rearranged, ("model.0.kernel", "NaN")),
    (rearranged, ("optimizer.first_moment", "missing")),
    (damaged, (1,)),
]


def name_of(case: Any) -> str:
    way, arguments = case
    words = ["missing" if value is MISSING else str(value) for value in arguments]
    return " ".join([way.__name__, *words])


@pytest.fixture(autouse=True)
def never_hangs() -> Iterator[None]:
    faulthandler.dump_traceback_later(120, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder of an uninterrupted run, with all its states."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    convae.train([*RUN, f"hydra.run.dir={folder}"])
    return folder


def assert_stepped_back(whole: Path, folder: Path, case: Case) -> None:
    """Damage the newest state: alone it is refused, with an older one beside it passed over."""
    way, arguments = case
    folder.mkdir()
    newest = folder / (UNREACHED if way is special else NEWEST)
    shutil.copy(whole / NEWEST, newest)
    way(newest, *arguments)
    before = content(newest)
    with pytest.raises(UserError, match="damaged"):
        convae.train([f"resume={folder}"])
    assert content(newest) == before

    shutil.copy(whole / OLDER, folder)
    convae.train([f"resume={folder}"])
    said = (folder / "train.log").read_text()
    assert "resuming after step 5" in said
    warnings = [line for line in said.splitlines() if "WARNING" in line and str(newest) in line]
    assert warnings
    if way in (replaced, rearranged, enlarged):
        at_fault = arguments[0].removeprefix("progress.").split(".")
        what = warnings[-1].partition(str(newest))[2]
        assert any(word in what for word in ("no state", *at_fault) if not word.isdigit())
    assert_same_run(whole, folder)


def content(path: Path) -> tuple[int, bytes]:
    """What a path is, and what is in it."""
    return path.lstat().st_mode, path.read_bytes() if path.is_file() else b""


def assert_same_run(whole: Path, folder: Path) -> None:
    """Check that a resumed run has ended with the bits of the uninterrupted one."""
    for name in (BEST, LAST):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    (expected, plan), (found, description) = read_state(whole), read_state(folder)
    assert description["progress"] == plan["progress"]
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_intact_states_resume_to_the_same_bits(whole, tmp_path) -> None:
    shutil.copy(whole / NEWEST, tmp_path)
    convae.train([f"resume={tmp_path}"])
    assert "resuming after step 6" in (tmp_path / "train.log").read_text()
    assert_same_run(whole, tmp_path)


@pytest.mark.parametrize("layout", [1, LAYOUT - 1, LAYOUT + 1, str(LAYOUT), None, MISSING])
def test_states_of_other_layouts_are_refused(whole, tmp_path, layout: Any) -> None:
    shutil.copy(whole / NEWEST, tmp_path)
    replaced(tmp_path / NEWEST, "layout", layout)
    before = content(tmp_path / NEWEST)
    with pytest.raises(UserError, match=r"(an older|a newer) version of convae|damaged"):
        convae.train([f"resume={tmp_path}"])
    assert content(tmp_path / NEWEST) == before


@pytest.mark.parametrize("case", QUICK, ids=name_of)
def test_a_crafted_state_is_passed_over(whole, tmp_path, case: Case) -> None:
    assert_stepped_back(whole, tmp_path / "run", case)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_350_damaged_and_crafted_states_are_passed_over(whole, tmp_path, case: Case) -> None:
    assert_stepped_back(whole, tmp_path / "run", case)
