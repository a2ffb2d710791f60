"""What is wrong with the overrides of a command line, in words that say what would do."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from convae.app.arguments import MULTIRUN, divide
from convae.keys import GROUPS, is_switch, override, unknown_key
from convae.training.state import is_used, used_folder

CONFIGS = "convae.configs"
"""The package with the configuration's files."""

INTERNAL = re.compile(r"\s*(full_key|object_type|reference_type)\b")
"""Lines of OmegaConf's messages that are about its own objects."""

FULL_KEY = re.compile(r"\s*full_key: (\S+)")
"""Where OmegaConf names the key."""

KEPT = {"hydra.run.dir", "experiment", "debug", "init", "code", "task"}
"""Keys that a resumed run keeps, whatever is said."""

WRAPPED = re.compile(r"^\w+ raised while resolving interpolation: ")
"""What OmegaConf puts before the message of another error."""


def mistake(arguments: Sequence[str]) -> str | None:
    """Find an argument that is no good override, and return a message that says what would do."""
    if message := unknown_key(arguments):
        return message
    keys = {argument.partition("=")[0] for argument in arguments}
    if "resume" in keys and "find_learning_rate" in keys:
        return "find_learning_rate: it trains no run, so there is none to resume; omit resume"
    if "resume" in keys and (own := [key for key in keys if key.startswith("model.")]):
        return f"{min(own)}: a resumed run keeps its model; omit it"
    if "resume" in keys and (other := keys & KEPT):
        return f"{min(other)}: a resumed run keeps its own; omit it"
    parser = OverridesParser.create()
    for argument in arguments:
        if argument.startswith("-") or not ("=" in argument or argument.startswith("~")):
            continue
        try:
            (parsed,) = parser.parse_overrides([argument])
        except HydraException as error:
            key, _, value = argument.partition("=")
            quoted = shlex.quote(override(key, value))
            return (
                f"{key}: {value!r} cannot be read ({message_of(error).splitlines()[0]}); a value "
                f"with spaces or special characters needs quotes: {quoted}"
            )
        if message := _wrong_override(parsed):
            return message
    return None


def _wrong_override(parsed: Override) -> str | None:
    """Say what is wrong with an override that can be read."""
    key, value = parsed.key_or_group, parsed.value()
    if key == "hydra.run.dir":
        if value is None or value == "":
            return f"{key}: {'null' if value is None else 'nothing'} is not a folder"
        if not isinstance(value, str):
            quoted = shlex.quote(f'{key}="{str(parsed.input_line).partition("=")[2]}"')
            return f"{key}: {value!r} is read as a value, not as a name; write {quoted}"
        return None
    if key.startswith("hydra"):
        return None
    if parsed.is_delete():
        return f"~{key}: nothing can be removed from the configuration; give {key} another value"
    if key in (*GROUPS, "experiment", "debug") and parsed.is_add():
        return f"+{key}: omit the +, as in {key}={value}"
    for single in value.list if isinstance(value, ChoiceSweep) else [value]:
        if is_switch(key) and isinstance(single, int) and single not in (False, True):
            return f"{key}: {single} is neither true nor false"
    is_option = isinstance(value, str) and value != ""
    if key in GROUPS and not (is_option or parsed.is_sweep_override()):
        shown = "null" if value is None else repr(value)
        return f"{key}: {shown} is not an option; expected one of {', '.join(_options(key))}"
    return None


def _options(group: str) -> list[str]:
    """List the files of a group."""
    return sorted(
        file.name.removesuffix(".yaml") for file in files(CONFIGS).joinpath(group).iterdir()
    )


def check_composition(arguments: Sequence[str]) -> None:
    """Compose what a command line says, so that mistakes show before a run's folder is made.

    Sweeps, and other configuration files, which flags name, are left to Hydra.
    """
    flags, overrides = divide(arguments)
    if flags or any(word.startswith("resume=") for word in overrides):
        return
    if error := _error_of(overrides):
        raise error


def check_values(composed: DictConfig) -> None:
    """Check a composed configuration; Hydra's own part may be in it."""
    own = composed.copy()
    with open_dict(own):
        own.pop("hydra", None)
    OmegaConf.to_object(own)


def culprit(arguments: Sequence[str], original: Exception) -> str | None:
    """Name the override with which composing raises an error like the original one, and why.

    None if there is none, or if the command line has flags, which may name other files. Of a sweep
    it is the first job that is composed.
    """
    flags, given = divide(arguments)
    if set(flags) - MULTIRUN:
        return None
    overrides = [*map(_first_value, given)] if flags else given
    error = _error_of(overrides)
    if error is None or type(error) is not type(original):
        return None
    for place, argument in enumerate(given):
        others = overrides[:place] + overrides[place + 1 :]
        if _error_of(others) is None:
            explanation = _explanation(others, argument.partition("=")[0])
            return f"{argument}: {explanation or message_of(error)}"
    groups = [word for word in overrides if word.partition("=")[0] in (*GROUPS, "experiment")]
    for argument, single in zip(given, overrides, strict=True):  # several are at fault
        if str(_error_of([*groups, single])) == str(error):
            explanation = _explanation(groups, argument.partition("=")[0])
            return f"{argument}: {explanation or message_of(error)}"
    return message_of(error)


def _first_value(argument: str) -> str:
    """Replace the values of a sweep by the first of them."""
    (parsed,) = OverridesParser.create().parse_overrides([argument])
    if not parsed.is_sweep_override():
        return argument
    values: Any = parsed.value()
    first = values.start if parsed.is_interval_sweep() else next(parsed.sweep_string_iterator())
    return f"{argument.partition('=')[0]}={first}"


def search_path(config_dir: str | os.PathLike[str]) -> str:
    """Write the override that adds a folder of configuration files."""
    _, _, quoted = override("x", f"file://{Path(config_dir).resolve()}").partition("=")
    return f"hydra.searchpath=[{quoted}]"


def _error_of(overrides: Sequence[str]) -> Exception | None:
    """Compose a configuration, and return the error that this raises, if any."""
    with hydra_of_its_own(), initialize_config_module(CONFIGS, version_base="1.3"):
        try:
            check_values(compose("config", overrides=list(overrides)))
        except Exception as error:  # Hydra raises what Python does, for overrides of wrong types
            return error
    return None


def _explanation(others: Sequence[str], key: str) -> str | None:
    """Say what Hydra's own message does not, of a key that could not be set beside others."""
    with hydra_of_its_own(), initialize_config_module(CONFIGS, version_base="1.3"):
        composed = compose("config", overrides=list(others))
    *above, _ = key.lstrip("+").split(".")
    for depth in range(len(above), 0, -1):
        name = ".".join(above[:depth])
        node = OmegaConf.select(composed, name)
        if OmegaConf.is_list(node) and name == "model.layers" and not len(node):
            return (
                "model=auto chooses the layers for the images, so there is none yet to change; "
                "name a model that has layers, such as model=conv, or set the whole list, "
                f"{name}=[...]"
            )
        if OmegaConf.is_list(node):
            return (
                f"{name} has {len(node)} entries, numbered from 0; for more of them set the whole "
                f"list, {name}=[...]"
            )
    return None


def names_used_folder(arguments: Sequence[str]) -> str | None:
    """Refuse a folder that holds a run, before Hydra writes its files into it."""
    for argument in arguments:
        if argument.startswith("hydra.run.dir="):
            (parsed,) = OverridesParser.create().parse_overrides([argument])
            is_plain = "${" not in argument
            folder = Path(str(parsed.value())) if is_plain else _resolved_folder(arguments)
            if is_used(folder):
                return used_folder(folder)
    return None


def _resolved_folder(arguments: Sequence[str]) -> Path:
    """Resolve the folder that a command line gives to its run."""
    _, overrides = divide(arguments)
    with hydra_of_its_own(), initialize_config_module(CONFIGS, version_base="1.3"):
        folder = [word for word in overrides if word.startswith("hydra.run.dir=")]
        composed = compose("config", overrides=folder, return_hydra_config=True)
        HydraConfig.instance().cfg = composed  # type: ignore[assignment]
        return Path(str(composed.hydra.run.dir))


def resumes_sweep(arguments: Sequence[str]) -> str | None:
    """Refuse to resume with -m."""
    is_sweep = MULTIRUN & set(arguments)
    if is_sweep and any(argument.startswith("resume=") for argument in arguments):
        return "resume: one run resumes at a time; omit -m"
    return None


def message_of(error: BaseException) -> str:
    """Put an error and its cause into lines."""
    causes = [str(error), str(error.__cause__ or "")]
    lines = [line for cause in causes for line in cause.splitlines() if line.strip()]
    keys = [match[1] for line in lines if (match := FULL_KEY.match(line))]
    lines = [WRAPPED.sub("", line) for line in lines if not INTERNAL.match(line)]
    lines = list(dict.fromkeys(lines))
    if keys and not any(keys[0] in line for line in lines):
        lines.insert(0, f"{keys[0]}:")
    if isinstance(error, MemoryError):
        lines.append("out of memory: lower trainer.batch_size, or the model's filters")
    return "\n".join(lines) or repr(error)


@contextmanager
def hydra_of_its_own() -> Iterator[None]:
    """Set another use of Hydra in this process aside, for a ``with`` block."""
    hydra_of_others, config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = hydra_of_others
        HydraConfig.instance().cfg = config
