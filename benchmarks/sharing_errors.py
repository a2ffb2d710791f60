"""Errors of models with shared, tiled and local kernels: python -m benchmarks.sharing_errors.

Runs the sweep of ``experiment=sharing`` and saves its table in benchmarks/results, and a picture of
the first layer's filters in docs/images.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

import convae
from benchmarks.measure import keep, table
from convae.files import write_bytes
from convae.report.pictures import GAP, filter_grid, png

REPOSITORY = Path(__file__).parents[1]
FILTERS_SHOWN = 4


def jobs(sweep: Path) -> dict[str, list[Path]]:
    """Group a sweep's run folders by model."""
    found: dict[str, list[Path]] = {}
    for overrides in sorted(sweep.glob("*/.hydra/overrides.yaml")):
        words = dict(word.split("=", 1) for word in OmegaConf.load(overrides))
        found.setdefault(words["model"], []).append(overrides.parents[1])
    return found


def row(model: str, folders: list[Path]) -> list[str]:
    """Summarise the seeds of one model."""
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    loaded = convae.load(folders[0])
    kernels = [array.size for name, array in loaded.parameters.items() if "kernel" in name]
    errors = [summary["test_mse"] for summary in summaries]
    return [
        f"`model={model}`",
        f"{sum(kernels):,}",
        str(loaded.code_size),
        f"{statistics.mean(s['validation_loss'] for s in summaries):.5f}",
        f"{statistics.mean(errors):.5f} ({min(errors):.5f} to {max(errors):.5f})",
        f"{statistics.mean(summary['pca_mse'] for summary in summaries):.5f}",
    ]


def filters(folders: list[Path]) -> np.ndarray:
    """Draw the first layer's first filters of each model, side by side."""
    pictures = [
        filter_grid(convae.load(folder).parameters["0.kernel"][:FILTERS_SHOWN], axes=2)
        for folder in folders
    ]
    height = max(len(picture) for picture in pictures)
    gap = np.full((height, 6 * GAP, 3), 255, np.uint8)
    columns = []
    for picture in pictures:
        below = ((0, height - len(picture)), (0, 0), (0, 0))
        columns += [gap, np.pad(picture, below, constant_values=255)]
    return np.concatenate(columns[1:], axis=1).repeat(2, axis=0).repeat(2, axis=1)


def main() -> None:
    """Run the sweep and save its results."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train.py", "-m", "experiment=sharing"]
        subprocess.run([*command, f"hydra.sweep.dir={folder}"], cwd=REPOSITORY, check=True)
        models = jobs(Path(folder))
        rows = [row(model, folders) for model, folders in models.items()]
        picture = filters([folders[0] for folders in models.values()])
    header = ["model", "kernel parameters", "code", "validation error", "test error", "PCA"]
    note = "Mean squared errors on digits, mean (and range) over three seeds."
    keep(
        "sharing_errors", "python -m benchmarks.sharing_errors", f"{note}\n\n{table(header, rows)}"
    )
    write_bytes(REPOSITORY / "docs" / "images" / "sharing.png", png(picture))


if __name__ == "__main__":
    main()
