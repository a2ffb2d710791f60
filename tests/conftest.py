"""Options, fixtures and the profile of Hypothesis for all tests."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hydra.core.hydra_config import HydraConfig
from hypothesis import settings

from convae.app import entry
from convae.data.splits import InMemory, Splits
from convae.engine.cpu import threads
from tests.helpers import REPOSITORY, SHORT, cupy_or_skip, run_train


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="run the tests marked slow, too")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: runs with --run-slow only")
    config.addinivalue_line("markers", "gpu: needs a GPU, or tests/pretend_gpu")
    examples = 200 if config.getoption("--run-slow") else 25
    how = {"deadline": None, "derandomize": True, "max_examples": examples}
    # what is found of a card while tests run says nothing to anybody else
    os.environ.setdefault("CONVAE_CACHE", tempfile.mkdtemp(prefix="convae-cache-"))
    settings.register_profile("convae", **how)
    settings.load_profile("convae")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "cupy" in getattr(item, "fixturenames", ()):
            item.add_marker("gpu")
    if config.getoption("--run-slow"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow; --run-slow runs it"))


@pytest.fixture(scope="module")
def divided() -> Iterator[None]:
    """Divide small batches into chunks, as large ones are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "LEAST_DIVIDED", 0)
        yield


@pytest.fixture(scope="session", params=["numpy", pytest.param("cupy", marks=pytest.mark.gpu)])
def xp(request: pytest.FixtureRequest) -> ModuleType:
    """NumPy, and CuPy where there is a GPU: the same test bodies serve both."""
    return np if request.param == "numpy" else cupy_or_skip()


@pytest.fixture(scope="session")
def cupy() -> ModuleType:
    """CuPy; tests that use it are marked gpu."""
    return cupy_or_skip()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every file fail to reach the disk."""

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)


@pytest.fixture(scope="session")
def real_images() -> Path:
    """The folder with MNIST's files that lies beside the repository on the team's machines."""
    folder = REPOSITORY.parent / "shared" / "datasets"
    if not folder.is_dir():
        pytest.skip("no folder of real images beside the repository")
    return folder


@pytest.fixture(scope="session")
def noise() -> Splits:
    """A small dataset: 33 training images of noise, 8 for validation, 8 for tests."""
    rng = np.random.default_rng(0)
    parts = (InMemory(rng.integers(0, 256, (n, 1, 6, 6), dtype=np.uint8)) for n in (33, 8, 8))
    return Splits("noise", *parts)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A short run of `python train.py` on digits: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("run")
    done = run_train(*SHORT, "device=cpu", f"hydra.run.dir={folder}")
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """`convae train` in this process; what Hydra changes in it is restored afterwards."""
    root, level = logging.getLogger(), logging.getLogger().level
    hydra_config = HydraConfig.instance().cfg
    interrupt = signal.getsignal(signal.SIGINT)

    def call(*arguments: str, full_error: bool = False) -> None:
        monkeypatch.setattr(sys, "argv", ["convae"])
        monkeypatch.setenv("HYDRA_FULL_ERROR", str(int(full_error)))
        entry.main(arguments)

    yield call
    signal.signal(signal.SIGINT, interrupt)
    for handler in list(root.handlers):
        if type(handler) in (logging.StreamHandler, logging.FileHandler):
            root.removeHandler(handler)
            handler.close()
    root.setLevel(level)
    HydraConfig.instance().cfg = hydra_config
