"""Six floors with imports that only go down, closed doors in the engine, and a light package.

root < engine < models, data < report, export < training < app
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY

ROOT = {"errors", "files", "version", "configuration", "keys", "processes"}
FLOORS = [{"root"}, {"engine"}, {"models", "data"}, {"report", "export"}, {"training"}, {"app"}]
FLOOR = {wing: floor for floor, wings in enumerate([*FLOORS, {"package"}]) for wing in wings}
PACKAGE = REPOSITORY / "convae"
HEAVY = ["torch", "torchvision", "hydra", "omegaconf", "tensorboard", "sklearn", "numba", "cupy"]


def module_of(file: Path) -> str:
    """The name of a file's module inside the package; "" is the package itself."""
    name = ".".join(file.relative_to(PACKAGE).with_suffix("").parts)
    return name.removesuffix("__init__").removesuffix(".")


MODULES = {module_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def imports(source: str) -> set[str]:
    """Modules that a source imports anywhere, by their names inside the package."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name their package"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [n if n.partition(".")[2] in MODULES else str(node.module) for n in whole]
        else:
            continue
        found |= {name.partition(".")[2] for name in names if name.split(".")[0] == "convae"}
    return found


EDGES = [
    (name, imported)
    for name, file in MODULES.items()
    for imported in sorted(imports(file.read_text()))
]


def wing(module: str) -> str:
    """The part of the package that a module belongs to; the package itself is above all."""
    first = module.partition(".")[0] or "package"
    return "root" if first in ROOT else first


def goes_down(importing: str, imported: str) -> bool:
    """Whether an import goes to a lower floor, or stays inside a wing."""
    here, there = wing(importing), wing(imported)
    return here == there or FLOOR[there] < FLOOR[here]


def respects_the_doors(importing: str, imported: str) -> bool:
    """Whether an import from outside the engine leaves its CPU's and its GPU's modules alone."""
    if wing(importing) == "engine":
        return True
    if imported.startswith("engine.gpu"):
        return importing in ("training.gpu_step", "app.gpu")
    return not imported.startswith("engine.cpu")


def test_every_module_stands_on_a_floor() -> None:
    assert {wing(module) for module in MODULES} == set(FLOOR)
    assert set(MODULES) >= ROOT


def test_edges_are_found() -> None:
    assert ("engine.identity", "engine.operations") in EDGES
    assert ("app.cli", "app.entry") in EDGES  # an import inside a function
    assert ("", "models.specification") in EDGES
    assert imports("import convae.files, os\nfrom convae.engine import c, gemm") == {
        "files",
        "engine",
        "engine.gemm",
    }


@pytest.mark.parametrize(("importing", "imported"), EDGES)
def test_imports_go_down(importing: str, imported: str) -> None:
    assert goes_down(importing, imported)
    assert respects_the_doors(importing, imported)


@pytest.mark.parametrize(
    ("importing", "imported"),
    [
        ("errors", "engine.arrays"),
        ("engine.arrays", "models.layers"),
        ("models.layers", "data.splits"),
        ("data.splits", "models"),
        ("report.pictures", "export.formats"),
        ("training.step", "app.run"),
        ("app.run", ""),
    ],
)
def test_imports_up_or_across_are_noticed(importing: str, imported: str) -> None:
    assert not goes_down(importing, imported)


@pytest.mark.parametrize(
    ("importing", "imported", "allowed"),
    [
        ("models.layers", "engine.cpu.threads", False),
        ("training.gpu_step", "engine.cpu", False),
        ("app.run", "engine.gpu.backend", False),
        ("training.gpu_step", "engine.gpu.recording", True),
        ("engine.backend", "engine.cpu.backend", True),
        ("", "engine.cpu.threads", False),
    ],
)
def test_doors_are_closed_to_others(importing: str, imported: str, allowed: bool) -> None:
    assert respects_the_doors(importing, imported) == allowed


def test_the_definition_imports_nothing_of_ours() -> None:
    assert imports(MODULES["engine.definition"].read_text()) == set()


def test_import_convae_is_light() -> None:
    code = f"""import sys, convae
heavy = {{"train", "read_image", "AnomalyDetector", "AutoencoderTransformer"}}
for name in set(convae.__all__) - heavy:
    getattr(convae, name)
print([name for name in {HEAVY} if name in sys.modules])"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_wheel_has_every_package() -> None:
    """pyproject.toml lists them, since the configuration lies in a folder of another name."""
    text = (REPOSITORY / "pyproject.toml").read_text()
    listed = set(re.findall(r'^  "(convae[a-z.]*)",$', text, re.M))
    folders = {path.parent.relative_to(REPOSITORY) for path in PACKAGE.rglob("__init__.py")}
    assert listed == {str(folder).replace(os.sep, ".") for folder in folders} | {"convae.configs"}
