"""The table of a sweep: what each of its runs was told, and what came of it.

Hydra calls `ResultsTable` when ``python train.py -m`` has done all its jobs, whichever launcher or
sweeper it used.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from pathlib import Path
from typing import Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from convae import checkpoint

log = logging.getLogger("convae")

RESULTS = "results.csv"
"""Name of the table in a sweep's folder."""

FIGURES = ("validation_loss", "test_mse", "pca_mse", "mean_image_mse", "best_epoch")
"""Columns from the runs' summaries; the first one decides which run is the best."""


def collect(directory: Path) -> list[dict[str, Any]]:
    """Gather the runs of a sweep.

    Parameters
    ----------
    directory : Path
        The sweep's folder, with a folder for each job, named by its number.

    Returns
    -------
    list of dict
        For each job ``run``, its overrides by their keys, and `FIGURES`, empty where the run has no
        summary; the best first, those without a figure last.
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
    """Write rows as comma-separated values.

    Parameters
    ----------
    rows : list of dict
        The rows; they may have different keys.

    Returns
    -------
    str
        A header, and a line for each row.
    """
    keys = dict.fromkeys(key for row in rows for key in row if key not in FIGURES)
    text = io.StringIO()
    writer = csv.DictWriter(text, [*keys, *FIGURES], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


class ResultsTable(Callback):
    """Write ``results.csv`` at the end of a sweep, and show it.

    Attributes
    ----------
    failures : int
        Runs of this process's last sweep that left no summary.
    """

    failures: ClassVar[int] = 0

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Collect the runs.

        Parameters
        ----------
        config : DictConfig
            Hydra's configuration of the sweep.
        **kwargs
            Not used.
        """
        directory = Path(config.hydra.sweep.dir)
        rows = collect(directory)
        if not rows:
            return
        checkpoint.write_bytes(directory / RESULTS, as_csv(rows).encode())
        shown = [{key: _short(value) for key, value in row.items()} for row in rows]
        keys = next(csv.reader(io.StringIO(as_csv(rows))))
        widths = {key: max(len(key), *(len(row.get(key, "")) for row in shown)) for key in keys}
        lines = ["  ".join(key.rjust(widths[key]) for key in keys)]
        lines += ["  ".join(row.get(k, "").rjust(widths[k]) for k in keys) for row in shown]
        ResultsTable.failures = sum(row[FIGURES[0]] == "" for row in rows)
        best = [f"{k}={v}" for k, v in rows[0].items() if k not in ("run", *FIGURES)]
        print("\n".join(["", *lines, ""]))
        if ResultsTable.failures < len(rows):
            print(f"Best: python train.py {' '.join(best)}")
        print(f"Table: {directory / RESULTS}")


def _short(value: Any) -> str:
    return (
        f"{value:.5f}" if isinstance(value, float) and value % 1 else str(value).removesuffix(".0")
    )
