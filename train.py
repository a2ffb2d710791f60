"""Train a convolutional autoencoder: ``python train.py [group=option] [key=value] ...``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from convae.configuration import Config, unknown_key
from convae.trainer import train

ConfigStore.instance().store(name="schema", node=Config)


@hydra.main(version_base="1.3", config_path="configs", config_name="config")
def main(composed: DictConfig) -> float:
    """Run what the configuration says and return the best validation loss."""
    try:
        config = OmegaConf.to_object(composed)
        assert isinstance(config, Config)
        directory = Path(HydraConfig.get().runtime.output_dir)
        if directory.is_relative_to(Path.cwd()):
            directory = directory.relative_to(Path.cwd())
        return train(config, directory)["validation_loss"]
    except (
        ArithmeticError,
        OSError,
        OmegaConfBaseException,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        sys.exit(f"error: {error}\n(HYDRA_FULL_ERROR=1 shows where it was raised)")


if __name__ == "__main__":
    if message := unknown_key(sys.argv[1:]):
        sys.exit(f"error: {message}")
    main()
