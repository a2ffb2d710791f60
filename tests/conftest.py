"""What all tests share: the array libraries, and the folder of real images where there is one."""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import settings

with suppress(ImportError), warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it imports optuna; later hypothesis, looking around, would
    import cupyx.optimizing  # noqa: F401

REPOSITORY = Path(__file__).parents[1]

settings.register_profile("convae", deadline=None, derandomize=True, max_examples=200)
settings.load_profile("convae")


def _cupy() -> ModuleType:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    if not cupy.cuda.is_available():
        pytest.skip("no GPU")
    return cupy


@pytest.fixture(scope="session", params=["numpy", "cupy"])
def xp(request: pytest.FixtureRequest) -> ModuleType:
    """NumPy, and CuPy where there is a GPU: the same test bodies serve both."""
    return np if request.param == "numpy" else _cupy()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def real_images() -> Path:
    """The folder with MNIST's files that lies beside the repository on the team's machines."""
    folder = REPOSITORY.parent / "shared" / "datasets"
    if not folder.is_dir():
        pytest.skip("no folder of real images beside the repository")
    return folder
