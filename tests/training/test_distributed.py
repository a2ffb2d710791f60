"""Several processes that train one model, beside one that does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import REPOSITORY
from tests.training.parallel_steps import CASES, alone

LIMIT = {"float32": 1e-5, "float64": 1e-12}


def torchrun(processes: int, *words: object, **environment: str) -> subprocess.CompletedProcess:
    """Run a script by torchrun."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*launcher, f"--nproc-per-node={processes}", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **environment},
    )


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def together(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    done = torchrun(request.param, REPOSITORY / "tests/training/parallel_steps.py", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", CASES)
def test_several_processes_do_what_one_does(together, name: str) -> None:
    with np.load(together / f"{name}.npz") as file:
        found = dict(file)
    expected, limit = alone(name), LIMIT[name.split()[-1]]
    assert found["losses"].std() > 0
    for what, values in expected.items():
        np.testing.assert_allclose(found[what], values, rtol=0, atol=limit, err_msg=what)
