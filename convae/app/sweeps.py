"""The table of a sweep: the overrides of each run and its figures.

Hydra calls `ResultsTable` when a sweep (``-m``) is done, with any launcher or sweeper.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from convae.app.entry import command
from convae.files import write_bytes

RESULTS = "results.csv"
"""Name of the table in a sweep's folder."""

FIGURES = ("validation_loss", "test_mse", "pca_mse", "mean_image_mse", "best_epoch")
"""Columns from the runs' summaries; the first one decides which run is the best."""


def collect(directory: Path) -> list[dict[str, Any]]:
    """Gather the runs of a sweep: for each its number, its overrides and its `FIGURES`.

    The best comes first; runs without a summary come last, with empty figures.
    """
    rows = []
    for folder in directory.iterdir():
        file = folder / ".hydra" / "overrides.yaml"
        if not folder.name.isdigit() or not file.is_file():
            continue
        overrides = (str(override).partition("=") for override in OmegaConf.load(file))
        row: dict[str, Any] = {"run": int(folder.name)}
        row |= {key.lstrip("+"): value for key, _, value in overrides}
        summary = folder / "summary.json"
        figures = json.loads(summary.read_text()) if summary.is_file() else {}
        rows.append(row | {name: figures.get(name, "") for name in FIGURES})
    return sorted(rows, key=lambda row: (row[FIGURES[0]] == "", row[FIGURES[0]], row["run"]))


def as_csv(rows: list[dict[str, Any]]) -> str:
    """Write rows as comma-separated values."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _columns(rows), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


class ResultsTable(Callback):
    """Write ``results.csv`` at the end of a sweep, and show it."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Collect the runs; if some failed, the process exits with a message that says so."""
        directory = Path(config.hydra.sweep.dir)
        rows = collect(directory)
        if not rows:
            return
        write_bytes(directory / RESULTS, as_csv(rows).encode())
        print(f"\n{as_table(rows)}\n")
        failures = sum(row[FIGURES[0]] == "" for row in rows)
        if failures < len(rows):
            best = [f"{k}={v}" for k, v in rows[0].items() if k not in ("run", *FIGURES)]
            print(f"Best: {command()} {' '.join(best)}")
        print(f"Table: {directory / RESULTS}")
        if failures:
            sys.exit(f"error: {failures} of the runs failed")


def as_table(rows: list[dict[str, Any]]) -> str:
    """Align rows in columns, for the screen."""
    keys = _columns(rows)
    shown = [{key: _short(value) for key, value in row.items()} for row in rows]
    widths = {key: max(len(key), *(len(row.get(key, "")) for row in shown)) for key in keys}
    lines = ["  ".join(key.rjust(widths[key]) for key in keys)]
    lines += ["  ".join(row.get(k, "").rjust(widths[k]) for k in keys) for row in shown]
    return "\n".join(lines)


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    return [*dict.fromkeys(key for row in rows for key in row if key not in FIGURES), *FIGURES]


def _short(value: Any) -> str:
    return (
        f"{value:.5f}" if isinstance(value, float) and value % 1 else str(value).removesuffix(".0")
    )
