"""Keys of the configuration by their names, and overrides that set them."""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Iterable
from typing import Any

from convae.configuration import Config

VALUES = ("true", "false", "yes", "no", "on", "off", "y", "n", "null", "none", "nan", "inf")
"""Words that Hydra and YAML read as values."""


def override(key: str, value: Any) -> str:
    """Write an override whose value may have any characters, with quotes where Hydra needs them."""
    text = str(value)
    is_name = re.fullmatch(r"[\w./:+-]*[A-Za-z/][\w./:+-]*", text, re.ASCII)
    if is_name and (text[0].isalpha() or "/" in text) and text.lower() not in VALUES:
        return f"{key}={text}"
    escaped = re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + m[2].replace('"', '\\"'), text)
    return f'{key}="{escaped}"'


GROUPS = [
    name for name, hint in typing.get_type_hints(Config).items() if dataclasses.is_dataclass(hint)
]
"""Keys whose values are chosen by a file."""


def unknown_key(arguments: Iterable[str]) -> str | None:
    """Find an override with an unknown key, and return a message that lists the known ones.

    Hydra refuses it too, but does not say which keys there are; and with a plus in front it accepts
    a key that nothing would ever read.
    """
    for argument in arguments:
        key, equals, _ = argument.lstrip("+~").partition("=")
        if not (equals or argument.startswith("~")) or key.startswith(("-", "hydra")):
            continue
        message = _unknown_part(Config, key.partition("@")[0].split("."), [])
        if message:
            return message
    return None


def is_switch(key: str) -> bool:
    """Tell whether a key is true or false."""
    hint: Any = Config
    for part in key.split("."):
        if typing.get_origin(hint) is list:
            (hint,) = typing.get_args(hint)
        else:
            hint = typing.get_type_hints(hint).get(part) if dataclasses.is_dataclass(hint) else None
    return hint in (bool, bool | None)


def _unknown_part(node: Any, parts: list[str], above: list[str]) -> str | None:
    if not parts:
        return None
    if typing.get_origin(node) is list:
        (node,) = typing.get_args(node)
        if not parts[0].isdigit():
            where = ".".join(above)
            return f"{'.'.join([*above, *parts])}: {where} is a list; number its entries, {where}.0"
        return _unknown_part(node, parts[1:], [*above, parts[0]])
    if not dataclasses.is_dataclass(node):
        return None
    hints = typing.get_type_hints(node)
    names = [*hints, "experiment", "debug", "run"] if node is Config else list(hints)
    if parts[0] not in names:
        close = difflib.get_close_matches(parts[0], names, n=1)
        suggestion = f"; did you mean {'.'.join([*above, close[0]])}?" if close else ""
        where = ".".join(above) if above else "the configuration"
        return (
            f"{'.'.join([*above, parts[0]])}: no such key{suggestion}\n"
            f"{where} has: {', '.join(names)}"
        )
    return _unknown_part(hints.get(parts[0]), parts[1:], [*above, parts[0]])
