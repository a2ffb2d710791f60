"""Train a convolutional autoencoder: ``python train.py [group=option] [key=value] ...``."""

from __future__ import annotations

import logging
import os
import sys
from math import inf
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from convae.application import train
from convae.configuration import Config, unknown_key
from convae.pretraining import STAGES
from convae.signals import Interrupted
from convae.state import has_state, read_state
from convae.sweeps import ResultsTable

ConfigStore.instance().store(name="schema", node=Config)


MISTAKES = (
    ArithmeticError,
    HydraException,
    MemoryError,
    OSError,
    OmegaConfBaseException,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a user can put right: shown as a message, not as a traceback."""


def saved_configuration(directory: Path, overrides: list[str]) -> DictConfig:
    """Take a run's configuration from its state, with this command's overrides on top."""
    _, description = read_state(directory)
    saved = OmegaConf.merge(OmegaConf.structured(Config), description["configuration"])
    assert isinstance(saved, DictConfig)
    for override in OverridesParser.create().parse_overrides(overrides):
        if OmegaConf.is_dict(OmegaConf.select(saved, override.key_or_group)):
            raise ValueError(
                f"{override.input_line}: a run that goes on keeps its {override.key_or_group}; "
                f"change single values of it, such as {override.key_or_group}.<key>=..."
            )
        OmegaConf.update(saved, override.key_or_group, override.value())
        if override.key_or_group == "resume":
            continue
        logging.getLogger("convae").info(f"going on with {override.input_line}")
    return saved


def run_directory(resume: str | None, fresh: str) -> str:
    """Choose the folder of a run: that of the run that goes on, or a fresh one."""
    if resume is None:
        return fresh
    if not resume or not has_state(Path(resume)):
        raise FileNotFoundError(
            f"resume: {resume!r} holds no state of a run; give the folder of a run, such as one "
            "under outputs/"
        )
    if Path(resume).resolve().parent.name == STAGES:
        raise ValueError(f"resume: {resume!r} is a stage of pretraining; give its run's folder")
    return resume


OmegaConf.register_new_resolver("run_directory", run_directory)
OmegaConf.register_new_resolver(
    "hydra_files", lambda resume: ".hydra" if resume is None else ".hydra/resumed"
)


@hydra.main(version_base="1.3", config_path="configs", config_name="config")
def main(composed: DictConfig) -> float:
    """Run what the configuration says and return the best validation loss."""
    directory = Path(HydraConfig.get().runtime.output_dir)
    if directory.is_relative_to(Path.cwd()):
        directory = directory.relative_to(Path.cwd())
    is_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        if composed.resume is not None:
            if is_sweep:
                raise ValueError("resume: one run goes on at a time; leave -m out")
            composed = saved_configuration(directory, HydraConfig.get().overrides.task)
        config = OmegaConf.to_object(composed)
        assert isinstance(config, Config)
        return train(config, directory)["validation_loss"]
    except Interrupted as stop:  # not an Exception for Hydra, which would start the next job
        print(stop, file=sys.stderr)
        sys.exit(128 + stop.number)
    except MISTAKES as error:
        if not is_sweep:
            raise
        logging.getLogger("convae").error(f"error: {error}")
        return inf  # the other jobs, and the table, shall not be lost


if __name__ == "__main__":
    if message := unknown_key(sys.argv[1:]):
        sys.exit(f"error: {message}")
    full = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on; what to show is decided here
    try:
        main()
        if ResultsTable.failures:
            sys.exit(f"error: {ResultsTable.failures} of the runs failed")
    except KeyboardInterrupt:
        print("stopped; a run that has begun goes on with resume=<its folder>", file=sys.stderr)
        sys.exit(130)
    except MISTAKES as error:
        if full:
            raise
        causes = [str(error), str(error.__cause__ or "")]
        lines = [line for cause in causes for line in cause.splitlines() if line.strip()]
        if isinstance(error, MemoryError):
            lines.append("memory is short: lower trainer.batch_size, or the model's filters")
        hint = "(HYDRA_FULL_ERROR=1 shows where it was raised)"
        sys.exit("\n".join([f"error: {lines[0]}" if lines else repr(error), *lines[1:], hint]))
