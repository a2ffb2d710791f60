"""Wrong and odd overrides, made from the schema: a finite run, or an error that names a key."""

from __future__ import annotations

import dataclasses
import faulthandler
import json
import random
import re
import socket
import typing
from collections.abc import Callable, Iterator, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

import convae
from convae.configuration import Config
from convae.errors import UserError
from convae.files import TEMPORARY
from convae.keys import GROUPS
from convae.models import checkpoint

pytestmark = pytest.mark.slow

TINY = (
    "debug=fast",
    "device=cpu",
    "model.layers=[{filters: 4, kernel: 3, stride: 2, padding: same}, {filters: 2, kernel: input}]",
    "trainer.batch_size=16",
    "trainer.probe=2",
    "trainer.embeddings=4",
)

# ---- what is wrong or odd


def keys(node: Any, above: str = "") -> Iterator[str]:
    """All keys of a dataclass of the schema, and those of the first two layers."""
    for name, hint in typing.get_type_hints(node).items():
        key = f"{above}{name}"
        yield key
        if dataclasses.is_dataclass(hint):
            yield from keys(hint, f"{key}.")
        elif typing.get_origin(hint) is list and dataclasses.is_dataclass(typing.get_args(hint)[0]):
            for index in range(2):
                yield from keys(typing.get_args(hint)[0], f"{key}.{index}.")


KEYS = list(keys(Config))

PATIENT = ("trainer.epochs", "trainer.pretrain_epochs")
"""With these, a huge number is no mistake, and takes for ever."""

CHOSEN_KEYS = (
    "model.layers",
    "model.output_activation",
    "optimizer.learning_rate",
    "optimizer.weight_decay",
    "schedule.warmup",
    "augmentation.flip",
    "augmentation.shift",
    "trainer.epochs",
    "trainer.batch_size",
)
"""What is chosen where nothing is given."""

HUGE = ("1000000000000", "1e300")
NUMBERS = ("-1", "0", "1", "2", "0.5", "-0.5", "1e-300", "nan", "inf", "-inf")
WORDS = ("", "null", "true", "text", "'1'", '""', "it's", "x=y", "photos (1)", "größe", "a/b")
COLLECTIONS = ("[]", "[1,2]", "[null]", "[[1]]", "{}", "{a:1}", "[{}]")
SYNTAX = ("???", "1,2", "range(1,3)", "${nothing}", "${trainer", "(", "a:b", "[1", "{a", "\\", "'")

CHOSEN = """
model.layers.7.filters=3
model.layers.x.filters=3
model.layers.-1.filters=3
model.layers.0.filters=1000000000000
model.layers.0.kernel=true
model.layers=[]
model.layers=[]; code=3
model.layers=[]; code=100
code=3
code=null
init=null
init=parseval
optimizer.learning_rate=null
trainer.batch_size=null
trainer.epochs=null
schedule.warmup=null
augmentation.shift=100
augmentation.shift=null
augmentation.flip=null
augmentation=both
model.layers=[{kernel: 3}]
model.layers=[{filters: 3, kernel: 3, colour: red}]
~model.layers.0
~model.layers
+model.layers.2={filters: 3, kernel: 1}
dataset.test={train:true}
dataset.train={train:true}
+dataset.train.train=true
dataset.name=FakeData
dataset=torchvision; dataset.name=FakeData
dataset=torchvision; dataset.name=VisionDataset
dataset=imagefolder; dataset.root=.
dataset=imagefolder; dataset.root=photos
dataset=mnist
+experiment=mnist
experiment=sizes
dataset.normal=[3]
dataset.normal=[99]
dataset.normal=3
corruption.amount=0.3
corruption=masking; corruption.amount=2
debug=[fast,overfit]
hydra.run.dir=
hydra.run.dir=""
hydra.run.dir=photos (1)
hydra.run.dir='photos (1)'
hydra.run.dir=null
hydra.run.dir=x=y
hydra.output_subdir=null
hydra.nothing=1
penalty.l1=1e30
penalty.kl=1e30
penalty.contractive=1e30
penalty.weight_decay=1e30
penalty=kl
optimizer.learning_rate=1e30
trainer.checkpoint_minutes=nan
schedule.warmup=100
resume=.
resume=
loss=bce; model.output_activation=identity
find_learning_rate=true
dtype=float64
dtype=float16
storage=bfloat16
device=cuda
=3
trainer
trainer.epochs
trainer.=3
.trainer=3
trainer..epochs=3
trainer.epochs.x=3
a b=3
model@dataset=conv
dataset@=digits
""".strip()


def drawn(draw: random.Random) -> str:
    """An override that is wrong, or odd, or now and then right."""
    key, sign = draw.choice(KEYS), draw.choice(("", "", "", "+", "++"))
    kind = draw.random()
    if kind < 0.08:
        return f"~{key}"
    if kind < 0.12:
        return f"{sign or '~'}{key}.{draw.choice(('x', '0'))}=1"
    if kind < 0.18:
        return f"{sign}{draw.choice(GROUPS)}={draw.choice((*WORDS, *COLLECTIONS, *GROUPS))}"
    numbers = NUMBERS if key in PATIENT else (*NUMBERS, *HUGE)
    values = draw.choice((numbers, numbers, WORDS, COLLECTIONS, SYNTAX))
    return f"{sign}{key}={draw.choice(values)}"


def cases(count: int) -> list[list[str]]:
    draw = random.Random(0)
    found = [line.split("; ") for line in CHOSEN.splitlines()]
    while len(found) < count:
        found.append([drawn(draw) for _ in range(draw.choice((1, 1, 2)))])
    return found


# ---- what has to come of it


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Iterator[Path]:
    """A folder to work in, without a network; a hang ends everything."""

    def unreachable(*arguments: object, **how: object) -> None:
        raise OSError("the network is unreachable")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    faulthandler.dump_traceback_later(120, exit=True)
    yield folder
    faulthandler.cancel_dump_traceback_later()


def outcome(run: Callable[[], object]) -> str | None:
    """Do a run; the message of the error that a user can put right, if there is one."""
    try:
        run()
    except (UserError, OSError) as error:
        return f"error: {error}"
    except SystemExit as end:
        return str(end.code)
    return None


def assert_names(message: str, overrides: Sequence[str]) -> None:
    """Check that an error names the key at fault, or one above it."""
    assert message.startswith("error: ")
    assert "Traceback" not in message
    assert len(message.splitlines()) < 40
    at_fault = [re.split("[=@]", override.lstrip("+~"))[0] for override in overrides]
    groups = [key.split(".")[0] for key in at_fault]
    assert any(key in message for key in at_fault) or any(
        re.search(rf"(?<![\w.]){re.escape(group)}\b", message) for group in groups
    ), message


def assert_finite_and_in_effect(folder: Path, overrides: Sequence[str]) -> None:
    """Check that a run has ended with finite figures and was configured as it was told."""
    if list(folder.rglob("learning_rate.png")):
        return  # the search trains nothing
    (summary,) = list(folder.rglob("summary.json"))
    figures = json.loads(summary.read_text())
    assert all(isfinite(value) for name, value in figures.items() if name != "run")
    if not list(summary.parent.glob("state-*")):
        assert any("drop_states" in override for override in overrides)
        return
    _, description = checkpoint.read(max(summary.parent.glob("state-*")))
    for key, wanted in values(overrides).items():
        found = description["configuration"]
        for part in key.split("."):
            found = found[int(part)] if isinstance(found, list) else found[part]
        if key in CHOSEN_KEYS and wanted in (None, []):
            assert found not in (None, [])
            continue
        if key == "code" and wanted is not None:  # the layers hold it
            found = description["configuration"]["model"]["layers"][-1]["filters"]
        assert same(found, wanted), f"{key} is {found!r}"


def values(overrides: Sequence[str]) -> dict[str, Any]:
    """The values that overrides give to single keys of the schema."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return {
        override.key_or_group: override.value()
        for override in parsed
        if override.key_or_group in KEYS
        and override.key_or_group not in GROUPS
        and not override.is_delete()
    }


def same(found: Any, wanted: Any) -> bool:
    """Tell whether a value is the one that was typed, as OmegaConf converts it."""
    if isinstance(found, bool):
        return found == (str(wanted).lower() in ("true", "1", "on", "yes"))
    if isinstance(found, (int, float, str)):
        return found == type(found)(wanted)
    return bool(found == wanted)


def assert_nothing_half_done(here: Path) -> None:
    """Check that there are neither unfinished files nor any outside the folder."""
    assert [path.name for path in here.parent.iterdir()] == [here.name]
    assert not list(here.rglob(f"*{TEMPORARY}"))
    for path in list(here.rglob("state-*")):
        checkpoint.read(path)


CASES = cases(300)


@pytest.mark.parametrize("overrides", CASES, ids=" ".join)
def test_300_odd_overrides(here, overrides: list[str]) -> None:
    check(here, overrides, outcome(lambda: convae.train([*TINY, *overrides])))


@pytest.mark.parametrize("overrides", CASES[::3], ids=" ".join)
def test_100_of_them_on_the_command_line(main, here, overrides: list[str]) -> None:
    check(here, overrides, outcome(lambda: main(*TINY, *overrides)))


def check(here: Path, overrides: list[str], message: str | None) -> None:
    if message is None:
        assert_finite_and_in_effect(here, overrides)
    else:
        assert_names(message, overrides)
    assert_nothing_half_done(here)
