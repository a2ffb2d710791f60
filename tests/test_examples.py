"""Examples run as they stand, in a folder of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY

EXAMPLES = REPOSITORY / "examples"


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_scripts_run(script: Path, tmp_path) -> None:
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Jupyter's own
@pytest.mark.parametrize("notebook", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_run(notebook: Path, tmp_path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    cells = nbformat.read(notebook, as_version=4)
    how = {"timeout": 300, "kernel_name": "python3"}
    here = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(cells, resources=here, **how).execute()
    assert any(cell.cell_type == "code" for cell in cells.cells)
