"""What is wrong with the overrides of a command line, in words that say what would do."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf

from convae.configuration import GROUPS, override, unknown_key
from convae.training.state import is_used, used_folder

CONFIGS = "convae.configs"
"""The package with the configuration's files."""


def mistake(arguments: Sequence[str]) -> str | None:
    """Find an argument that is no good override, and return a message that says what would do."""
    if message := unknown_key(arguments):
        return message
    for argument in arguments:
        if argument.startswith("-") or not ("=" in argument or argument.startswith("~")):
            continue
        try:
            (parsed,) = OverridesParser.create().parse_overrides([argument])
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
        if not isinstance(value, str) or not value:
            return f"{key}: {value!r} is no folder"
        return None
    if key.startswith("hydra"):
        return None
    if parsed.is_delete():
        return f"~{key}: nothing can be removed from the configuration; give {key} another value"
    if key in (*GROUPS, "experiment", "debug") and parsed.is_add():
        return f"+{key}: omit the +, as in {key}={value}"
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


def culprit(arguments: Sequence[str]) -> str | None:
    """Name the override that cannot be composed, and why; None if all can, or if they are swept."""
    overrides = [argument for argument in arguments if "=" in argument and argument[0] != "-"]
    parsed = OverridesParser.create().parse_overrides(overrides)
    if any(each.is_sweep_override() for each in parsed):
        return None
    error = _error_of(overrides)
    if error is None:
        return None
    for argument in overrides:
        others = [other for other in overrides if other is not argument]
        if _error_of(others) is None:
            explanation = _explanation(others, argument.partition("=")[0])
            return f"{argument}: {explanation or message_of(error)}"
    return message_of(error)


def _error_of(overrides: Sequence[str]) -> Exception | None:
    """Compose a configuration, and return the error that this raises, if any."""
    with hydra_of_its_own(), initialize_config_module(CONFIGS, version_base="1.3"):
        try:
            OmegaConf.to_object(compose("config", overrides=list(overrides)))
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
            if is_used(Path(str(parsed.value()))):
                return used_folder(str(parsed.value()))
    return None


def resumes_sweep(arguments: Sequence[str]) -> str | None:
    """Refuse to resume with -m."""
    is_sweep = any(argument in ("-m", "--multirun") for argument in arguments)
    if is_sweep and any(argument.startswith("resume=") for argument in arguments):
        return "resume: one run resumes at a time; omit -m"
    return None


def message_of(error: BaseException) -> str:
    """Put an error and its cause into lines."""
    causes = [str(error), str(error.__cause__ or "")]
    lines = [line for cause in causes for line in cause.splitlines() if line.strip()]
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
