"""Compiled functions with and without a cache on disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY

STEPS = """
import hashlib, convae, numpy as np
layers = [convae.Layer(8, 5, stride=2, padding="same"), convae.Layer(12, 3, activation="tanh")]
step = convae.TrainingStep(convae.Autoencoder((2, 9, 8), layers), convae.Adam(1e-2))
x = np.random.default_rng(0).random((96, 2, 9, 8), dtype="float32")
for _ in range(3):
    step(x)
print(hashlib.sha256(step.model.flat_parameters.tobytes()).hexdigest(), convae.__file__)
"""


def parameters_after_three_steps(folder: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", STEPS],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    digest, file = done.stdout.split()
    assert Path(file).is_relative_to(folder)
    return digest


def test_bits_are_the_same_from_run_to_run() -> None:
    assert len({parameters_after_three_steps(REPOSITORY) for _ in range(2)}) == 1


@pytest.mark.slow
def test_bits_are_the_same_where_nothing_can_be_cached(tmp_path) -> None:
    """Neither the package's folders nor the user's can be written."""
    package = tmp_path / "convae"
    shutil.copytree(REPOSITORY / "convae", package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "engine" / "cpu" / "__pycache__").write_text("a file where the folder would be")
    nowhere = {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null"}
    uncached = parameters_after_three_steps(tmp_path, **nowhere)
    assert uncached == parameters_after_three_steps(REPOSITORY)


@pytest.mark.slow
def test_a_change_anywhere_in_the_package_is_compiled(tmp_path) -> None:
    """Numba itself looks only at the file of a cached function."""
    package = tmp_path / "convae"
    shutil.copytree(REPOSITORY / "convae", package, ignore=shutil.ignore_patterns("__pycache__"))
    right = parameters_after_three_steps(tmp_path)
    file = package / "engine" / "cpu" / "llvm.py"
    changed = file.read_text().replace("builder.fadd(old, row[v])", "row[v]")
    assert changed != file.read_text()
    file.write_text(changed)
    assert parameters_after_three_steps(tmp_path) != right


@pytest.mark.slow
@pytest.mark.parametrize("damage", [lambda content: content[:50], lambda content: b"", bytes.upper])
@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_a_damaged_cache_is_rebuilt(tmp_path, damage, suffix: str) -> None:
    script = (
        "import numpy as np\n"
        "from convae import engine\n"
        "print(engine.c(np.ones((2, 1, 3, 3), 'f4'), np.ones((32, 1, 8, 8), 'f4')).sum())"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", script]

    def run() -> str:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    expected = run()
    files = list(tmp_path.rglob(f"*{suffix}"))
    assert files
    for file in files:
        file.write_bytes(damage(file.read_bytes()))
    assert run() == expected
