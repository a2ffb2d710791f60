"""A run's figures as a table, and what to try where a baseline is ahead of the model."""

from __future__ import annotations

from collections.abc import Mapping

HEADER = ("squared error", "PSNR (dB)", "SSIM")

UNDERFITTING = (
    "Try more epochs (trainer.epochs) or a larger optimizer.learning_rate, and model=auto and "
    "init=pca where the run has others"
)
OVERFITTING = (
    "Try more images, augmentation=flips, shifts or both, a smaller code, fewer filters or weight "
    "decay (optimizer.weight_decay, penalty=weight_decay)"
)


def table(title: str, labels: Mapping[str, str], figures: Mapping[str, float]) -> str:
    """Tabulate squared error, PSNR and SSIM, with a dash for what was not measured.

    A row for each of the names in `labels` that `figures` has a ``<name>_mse`` of.
    """
    rows: list[tuple[str, ...]] = [(title, *HEADER)]
    for name, label in labels.items():
        if f"{name}_mse" in figures:
            measured = (figures.get(f"{name}_{what}") for what in ("mse", "psnr", "ssim"))
            cells = zip((".5f", ".2f", ".3f"), measured, strict=True)
            texts = ("-" if value is None else format(value, how) for how, value in cells)
            rows.append((f"  {label}", *texts))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def advice(labels: Mapping[str, str], figures: Mapping[str, float]) -> str:
    """Say which baseline the model is behind most, and what to try; nothing if it is ahead of all.

    A baseline without error, such as PCA with a component for every pixel, is no measure. The model
    underfits if it does no better on the images that it was trained on (``train_mse``), and else
    overfits.
    """
    error = figures["test_mse"]
    others = {name: figures.get(f"{name}_mse", 0.0) for name in labels if name != "test"}
    ahead = {name: other for name, other in others.items() if 0 < other <= error}
    if not ahead:
        return ""
    best = min(ahead, key=lambda name: ahead[name])
    behind = error / ahead[best] - 1
    lines = [f"The model is behind {labels[best]} by {behind:.{0 if behind >= 0.1 else 1}%}."]
    of_training = f"Its error on training images, {figures['train_mse']:.5f}, is"
    if figures["train_mse"] >= ahead[best]:
        lines.append(f"{of_training} no lower either, so it underfits. {UNDERFITTING}.")
    else:
        lines.append(f"{of_training} lower, so it overfits. {OVERFITTING}.")
    return "\n".join(lines)
