"""Train a convolutional autoencoder: ``python train.py [group=option] [key=value] ...``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from convae.configuration import Config, unknown_key
from convae.trainer import train

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


@hydra.main(version_base="1.3", config_path="configs", config_name="config")
def main(composed: DictConfig) -> float:
    """Run what the configuration says and return the best validation loss."""
    config = OmegaConf.to_object(composed)
    assert isinstance(config, Config)
    directory = Path(HydraConfig.get().runtime.output_dir)
    if directory.is_relative_to(Path.cwd()):
        directory = directory.relative_to(Path.cwd())
    return train(config, directory)["validation_loss"]


if __name__ == "__main__":
    if message := unknown_key(sys.argv[1:]):
        sys.exit(f"error: {message}")
    full = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on; what to show is decided here
    try:
        main()
    except MISTAKES as error:
        if full:
            raise
        causes = [str(error), str(error.__cause__ or "")]
        lines = [line for cause in causes for line in cause.splitlines() if line.strip()]
        hint = "(HYDRA_FULL_ERROR=1 shows where it was raised)"
        sys.exit("\n".join([f"error: {lines[0]}" if lines else repr(error), *lines[1:], hint]))
