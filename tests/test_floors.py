"""Imports go down only; torch and Hydra stay out of `import convae`."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

FLOORS = [
    {"version"},
    {"engine.arrays", "engine.geometry", "engine.definition"},
    {"engine.gemm", "engine.parallel", "engine.compiled", "engine.toom_cook", "engine.kernels"},
    {"engine.tiles", "engine.pointwise", "engine.cuda", "engine.cudnn"},
    {"engine.direct"},
    {"engine.points"},
    {"engine.winograd"},
    {"engine.cpu", "engine.gpu"},
    {"engine.operations"},
    {"engine.identity"},
    {"engine"},
    {
        "biases",
        "checkpoint",
        "configuration",
        "corruption",
        "optimizers",
        "parameters",
        "schedules",
        "signals",
    },
    {"activations"},
    {"layers", "losses", "outputs", "splits"},
    {"penalties"},
    {"backpropagation"},
    {"autoencoder", "datasets", "pictures"},
    {"torch_module"},
    {
        "anomaly",
        "averaging",
        "build",
        "captured",
        "diagnostics",
        "evaluation",
        "export",
        "saved",
        "state",
        "step",
    },
    {"images", "learning_rate", "probe", "tensorboard"},
    {"trainer"},
    {"pretraining", "summary"},
    {"application", "cli", "sweeps"},
    {""},
]
LEVEL = {module: level for level, modules in enumerate(FLOORS) for module in modules}


def imports(source: str) -> set[str]:
    """Modules of convae that a source file imports, by their names inside the package."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            names = [
                f"{base}.{alias.name}" if f"{base}.{alias.name}"[7:] in LEVEL else base
                for alias in node.names
            ]
        else:
            continue
        found |= {name.partition(".")[2] for name in names if name.split(".")[0] == "convae"}
    return found


FILES = sorted((REPOSITORY / "convae").rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(REPOSITORY)))
def test_imports_go_down(file) -> None:
    name = ".".join(file.relative_to(REPOSITORY / "convae").with_suffix("").parts)
    name = name.removesuffix("__init__").removesuffix(".")
    assert name in LEVEL, "a new module: say on which floor it stands"
    for imported in imports(file.read_text()):
        assert LEVEL[imported] < LEVEL[name], f"{name} imports {imported}"


def test_the_engine_knows_nothing_above_it() -> None:
    for file in (REPOSITORY / "convae" / "engine").glob("*.py"):
        assert all(name.startswith("engine") for name in imports(file.read_text())), file.name


def test_the_definition_imports_nothing_of_ours() -> None:
    assert imports((REPOSITORY / "convae/engine/definition.py").read_text()) == set()


def test_import_convae_is_light() -> None:
    heavy = [
        "torch",
        "torchvision",
        "hydra",
        "omegaconf",
        "tensorboard",
        "sklearn",
        "cupy",
        "numba",
    ]
    code = f"import sys, convae; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
