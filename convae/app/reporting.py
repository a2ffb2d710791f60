"""The page about a run: its data read again, its model's scores, and what stands out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from omegaconf import OmegaConf

from convae.app.arguments import command
from convae.app.summary import DATA, read_figures
from convae.configuration import Config, from_plain
from convae.data.augmentation import cropped
from convae.data.datasets import load_dataset
from convae.data.pictures import to_floats
from convae.data.splits import Split, Splits, kind, noun
from convae.engine import to_numpy
from convae.errors import UserError, counted
from convae.models.classifier import Classifier
from convae.models.model import Model
from convae.report.anomaly import Detector, judge, of_whole
from convae.report.describe import describe
from convae.report.overlays import map_figure
from convae.report.page import (
    Picture,
    Section,
    histogram,
    loss_curves,
    render,
    threshold_curve,
)
from convae.report.pictures import png
from convae.report.scores import SCORES
from convae.version import __version__

SHOWN = 8
"""Examples that are shown of the most, and of the least, unusual ones."""

QUANTILES = (0.9, 0.95, 0.99, 0.995, 0.999)
"""Quantiles of the validation scores of which the page says what they would detect."""

BATCH = 256
"""Examples at a time."""


def report(run: Path, model: Model, score: str | None) -> str:
    """Write the page of a finished run, as HTML."""
    if isinstance(model, Classifier):
        raise UserError(
            "RUN: the page is of reconstructions, and a classifier has none; see confusion.png"
        )
    config = _configuration(run)
    data = cropped(load_dataset(config.dataset, config.seed), config.augmentation.window)
    if data.test.shape != model.input_shape:
        raise UserError(
            f"RUN: its data are now {data.test.shape}, and its model takes {model.input_shape}"
        )
    detector = Detector.of_model(model)
    chosen = detector.choose(score)
    names = list(SCORES) if detector.normal else [chosen]
    each = detector.scores(data.test, BATCH, names)
    found = {name: of_whole(data.test, values) for name, values in each.items()}
    threshold = detector.own_threshold(chosen)
    sections = [
        _distribution(data, detector, found[chosen], threshold, chosen),
        None if data.anomalous is None else _scores(data, found),
        _examples(data, detector, each[chosen], chosen, most=True),
        _examples(data, detector, each[chosen], chosen, most=False),
        _losses(run),
        Section("Model", preformatted=describe(model)),
        _figures(run),
    ]
    changed = _changed(model, data)
    about = [
        f"{data.name}: {len(data.train):,} training, {len(data.validation):,} validation, "
        f"{len(data.test):,} test {noun(data.test)}s; convae {__version__}",
        _trained_with(run),
        *changed,
    ]
    return render(f"Run {run.resolve().name}", about, [s for s in sections if s is not None])


def _changed(model: Model, data: Splits) -> list[str]:
    """Say, here and on the page, if the data are no longer those that the run had."""
    known = model.metadata.get(DATA) or {}
    found = data.fingerprints()
    parts = [name for name, digest in found.items() if known.get(name, digest) != digest]
    if not parts:
        return []
    said = (
        f"The {', '.join(parts)} examples are not those that the run had: files have changed or "
        "moved since. Figures of scores here are of those that there are now."
    )
    click.echo(f"warning: {said}", err=True)
    return [said]


def _configuration(run: Path) -> Config:
    file = run / ".hydra" / "config.yaml"
    if not file.is_file():
        raise FileNotFoundError(f"RUN: {str(run)!r} holds no .hydra/config.yaml, as runs do")
    config: Config = from_plain(OmegaConf.to_container(OmegaConf.load(file)))
    return config


def _trained_with(run: Path) -> str:
    file = run / ".hydra" / "overrides.yaml"
    words: Any = OmegaConf.load(file) if file.is_file() else []
    return f"trained with: {command(map(str, words))}"


def _figures(run: Path) -> Section:
    """List the numbers of the run's end."""
    figures = read_figures(run)
    if not figures:
        raise UserError(f"RUN: {str(run)!r} has no summary; a report is for finished runs")
    rows = [["figure", "value"]]
    rows += [[name, f"{value:.5g}"] for name, value in figures.items()]
    return Section("Figures", rows=rows)


def _losses(run: Path) -> Section | None:
    """Draw the losses, as TensorBoard has them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run), {"scalars": 0})
    events.Reload()
    curves: dict[str, tuple[Sequence[int], Sequence[float]]] = {}
    for name in ("train", "validation"):
        if f"loss/{name}" in events.Tags()["scalars"]:
            points = [p for p in events.Scalars(f"loss/{name}") if math.isfinite(p.value)]
            if points:
                curves[name] = [p.step for p in points], [p.value for p in points]
    if not curves:
        return None
    return Section("Training", pictures=[Picture(loss_curves(curves), "loss over steps")])


def _distribution(
    data: Splits,
    detector: Detector,
    scores: np.ndarray[Any, Any],
    threshold: float | None,
    name: str,
) -> Section:
    """Show how scores are distributed, and what a threshold would take for anomalies."""
    groups = {"test": scores}
    if data.anomalous is not None:
        groups = {"normal": scores[~data.anomalous], "anomalous": scores[data.anomalous]}
    with_validation = dict(groups)
    if detector.validation:
        with_validation = {"validation": detector.validation[name], **groups}
    rows = []
    if detector.validation:
        rows.append(["quantile of validation", "threshold", *(f"{g} above it" for g in groups)])
        for quantile in QUANTILES:
            at = detector.threshold(name, quantile)
            above = (f"{(values > at).mean():.1%}" for values in groups.values())
            rows.append([f"{quantile:g}", f"{at:.4g}", *above])
    pictures = [
        Picture(histogram(with_validation, threshold, name), "how scores are distributed"),
        Picture(threshold_curve(groups, threshold, name), "what lies above a threshold"),
    ]
    return Section(
        "Scores",
        [f"Score: {SCORES[name].meaning} ({name})."],
        rows=rows,
        pictures=pictures,
    )


def _scores(data: Splits, found: dict[str, np.ndarray[Any, Any]]) -> Section:
    """List the areas under the curves, by every score."""
    assert data.anomalous is not None
    rows = [["score", "AUROC", "AUPRC"]]
    for name, values in found.items():
        judged = judge(values, data.anomalous, math.inf)
        figures = (f"{judged[which]:.4f}" for which in ("auroc", "auprc"))
        rows.append([f"{name}: {SCORES[name].meaning}", *figures])
    number, example = int(data.anomalous.sum()), kind(data.test.shape)
    text = f"{number:,} of {counted(len(data.anomalous), f'test {example}')} are anomalous."
    return Section("Anomalies", [text], rows=rows)


def _examples(
    data: Splits, detector: Detector, scores: np.ndarray[Any, Any], name: str, most: bool
) -> Section:
    """Show the examples with the highest, or the lowest, scores."""
    number = min(SHOWN, max(1, len(scores) // 2))  # not the same ones twice
    order = np.argsort(-scores if most else scores, kind="stable")[:number]
    some = data.test.select(order)
    model = detector.model
    pixels = np.concatenate([to_numpy(batch) for batch in some.batches(BATCH)])
    seen = detector.see(to_floats(pixels, model.backend, model.dtype))
    maps = to_numpy(SCORES[name].map(seen))
    top = detector.top(name, maps)
    captions = _captions(data, some, order.tolist())
    pairs = zip(to_numpy(seen.x), to_numpy(seen.R), maps, order, captions, strict=True)
    pictures = [
        Picture(png(map_figure(x, R, unusual, top)), f"{scores[index]:.4g}: {caption}")
        for x, R, unusual, index, caption in pairs
    ]
    heading = f"{'Most' if most else 'Least'} unusual test {noun(data.test)}s"
    text = ["Each beside its reconstruction, and where it is unusual."]
    return Section(heading, text, pictures=pictures)


def _captions(data: Splits, some: Split, order: Sequence[int]) -> list[str]:
    """Name examples by their files or numbers, and their classes."""
    files = some.files
    name_of = data.name_of or "number {}".format
    captions = [name_of(index) for index in order] if files is None else list(map(str, files))
    if some.labels is not None:
        known = dict(enumerate(data.classes))
        classes = (known.get(int(label), str(label)) for label in some.labels)
        captions = [f"{c} ({label})" for c, label in zip(captions, classes, strict=True)]
    return captions
