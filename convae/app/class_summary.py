"""The end of a classifier's run: its accuracy beside baselines', and a table of confusions."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path

import numpy as np

from convae.app.summary import UNSPOILT, where_to_look, write_figures
from convae.configuration import TrainerConfig
from convae.data.splits import Splits, noun
from convae.errors import counted
from convae.files import write_bytes
from convae.models.classifier import Classifier
from convae.models.model import Model
from convae.report.classification import baselines, classify, confusion_picture
from convae.report.tensorboard import Board
from convae.training.progress import Progress

log = logging.getLogger("convae")

WORST = 3
"""Classes that are named for being recognised least."""


def summarise(
    model: Model,
    data: Splits,
    progress: Progress,
    trainer: TrainerConfig,
    directory: Path,
    board: Board,
) -> dict[str, float]:
    """Write the figures and the table of confusions, log a report, and return the figures."""
    assert isinstance(model, Classifier)
    assert trainer.batch_size is not None
    found = classify(model, data.test, trainer.batch_size)
    others = baselines(data)
    figures = {
        "best_epoch": float(progress.best_epoch),
        "validation_loss": progress.best_loss,
        "test_loss": found.loss,
        "test_accuracy": found.accuracy,
        **{f"{name}_accuracy": value for name, value in others.items()},
    }
    board.figures(progress.step, figures)
    picture = confusion_picture(found, data.classes)
    write_bytes(directory / "confusion.png", picture)
    board.confusion(progress.step, picture)
    write_figures(directory, progress.run, figures)
    example = noun(data.test)
    title = f"On {counted(len(data.test), f'test {example}')} of {data.name}"
    labels = {
        f"this model (epoch {progress.best_epoch})": found.accuracy,
        "logistic regression on pixels": others.get("linear"),
        "always the largest class": others["largest"],
    }
    rows = [f"  {name:<40}{value:>9.2%}" for name, value in labels.items() if value is not None]
    lines = [f"\n{title:<42}{'accuracy':>9}", *rows]
    of_classes = found.of_classes()
    known = dict(enumerate(data.classes))
    worst = [n for n in np.argsort(of_classes)[:WORST] if of_classes[n] < 1]
    if worst:
        named = ", ".join(f"{known.get(int(n), n)} {of_classes[n]:.1%}" for n in worst)
        lines.append(f"Least recognised: {named}")
    if not progress.best_epoch:
        lines.append(UNSPOILT)
    lines.append(f"Confusions: {shlex.quote(str(directory / 'confusion.png'))}")
    log.info("\n".join([*lines, where_to_look(directory)]))
    return figures
