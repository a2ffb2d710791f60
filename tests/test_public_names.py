"""What `import convae` offers, and its documentation."""

from __future__ import annotations

import inspect
import re
from enum import Enum
from types import ModuleType
from typing import Any

import pytest

import convae
from convae import engine

PUBLIC = {name: getattr(convae, name) for name in convae.__all__} | {
    f"engine.{name}": getattr(engine, name) for name in engine.__all__
}
DOCUMENTED = {
    name: thing
    for name, thing in PUBLIC.items()
    if thing is not Any and (inspect.isclass(thing) or inspect.isfunction(thing))
}


def parameters(thing: object) -> list[str]:
    """Names of the arguments that a caller gives."""
    if inspect.isclass(thing) and issubclass(thing, Exception | Enum):
        return []  # a message, as every exception's, or a value, as every enumeration's
    found = inspect.signature(thing).parameters
    return [name for name in found if name not in ("self", "args", "kwargs")]


def section(documentation: str, title: str) -> str:
    """A section of a numpydoc docstring; empty if there is none."""
    found = re.search(rf"^{title}\n-+\n((?s:.*?))(?=^\S.*\n-+$|\Z)", documentation, re.M)
    return found[1] if found else ""


def described(documentation: str) -> set[str]:
    """Names in the section on parameters: `a, b : float` and `**geometry`."""
    lines = re.findall(r"^(\S[^:\n]*?)(?: : .*)?$", section(documentation, "Parameters"), re.M)
    return {name.strip("* ") for line in lines for name in line.split(",")}


def test_everything_is_there() -> None:
    assert len(set(convae.__all__)) == len(convae.__all__)
    assert set(dir(convae)) >= set(convae.__all__)
    assert callable(convae.train)
    assert re.fullmatch(r"\d+\.\d+\.\d+", convae.__version__)
    with pytest.raises(AttributeError, match="module 'convae' has no attribute 'nothing'"):
        convae.nothing  # noqa: B018


def test_all_that_is_public_is_documented() -> None:
    rest = {name for name, thing in PUBLIC.items() if name not in DOCUMENTED}
    assert rest == {"__version__", "engine", "engine.Array"}
    assert isinstance(convae.engine, ModuleType)
    assert convae.engine.__doc__


@pytest.mark.parametrize("name", DOCUMENTED)
def test_docstrings_describe_every_parameter(name: str) -> None:
    thing = DOCUMENTED[name]
    documentation = inspect.getdoc(thing)
    assert documentation
    assert documentation.splitlines()[0].endswith((".", ":"))
    assert set(parameters(thing)) <= described(documentation)


METHODS = {
    f"{name}.{method}": function
    for name, thing in DOCUMENTED.items()
    if inspect.isclass(thing) and not name.startswith("engine.")
    for method, function in inspect.getmembers(thing, inspect.isfunction)
    if not method.startswith("_") and function.__module__.startswith("convae")
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_describe_every_parameter(name: str) -> None:
    documentation = inspect.getdoc(METHODS[name])
    assert documentation
    assert set(parameters(METHODS[name])) <= described(documentation)


def test_missing_descriptions_are_noticed() -> None:
    given = "Parameters\n----------\na, b : int\n    Two.\n*more\n    Others."
    assert described(f"Do it.\n\n{given}\n\nReturns\n-------\nint\n    It.") == {"a", "b", "more"}
    assert described("Do it.") == set()
