"""A page about a run, in one file: figures, curves, and the most and least unusual examples."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from convae.report.pictures import SOFTWARE, figure_png

GENERATOR = f"{SOFTWARE}: a page about a run"
"""What a page says that it was made by."""

BINS = 60
"""Bars of a histogram of scores."""

FAR = 99.5
"""Per cent of the scores that a diagram shows; the last ones may lie far out."""


@dataclass(frozen=True)
class Picture:
    """A picture and what it shows.

    Parameters
    ----------
    content : bytes
        A PNG file.
    caption : str
        Below it.
    """

    content: bytes
    caption: str

    @property
    def encoded(self) -> str:
        """The file in base64, as it stands in the page."""
        return base64.b64encode(self.content).decode()


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Parameters
    ----------
    heading : str
        Above it.
    text : sequence of str
        Paragraphs.
    preformatted : str
        Text whose lines and columns are kept.
    rows : sequence of sequence of str
        A table, its header first.
    pictures : sequence of Picture
        Side by side.
    """

    heading: str
    text: Sequence[str] = ()
    preformatted: str = ""
    rows: Sequence[Sequence[str]] = ()
    pictures: Sequence[Picture] = ()


def render(title: str, about: Sequence[str], sections: Sequence[Section]) -> str:
    """Put a page together: one file that needs no other."""
    from jinja2 import Environment, StrictUndefined

    source = resources.files("convae.report").joinpath("page.html.jinja").read_text("utf-8")
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(source)
    return template.render(title=title, about=about, sections=sections, generator=GENERATOR)


def loss_curves(curves: dict[str, tuple[Sequence[int], Sequence[float]]]) -> bytes:
    """Draw losses over steps: by their names, steps and values."""

    def draw(axes: Any) -> None:
        for name, (steps, values) in curves.items():
            axes.plot(steps, values, label=name)
        is_positive = all(min(values) > 0 for _, values in curves.values())
        axes.set(xlabel="step", ylabel="loss", yscale="log" if is_positive else "linear")
        axes.legend()

    return figure_png(draw)


def histogram(
    groups: dict[str, np.ndarray[Any, Any]], threshold: float | None, score: str
) -> bytes:
    """Draw how the scores (N,) of several groups are distributed."""
    every = np.concatenate(list(groups.values()))
    edges = np.linspace(every.min(), np.percentile(every, FAR), BINS + 1)
    if not np.ptp(edges) > 0:
        edges = np.linspace(every.min() - 0.5, every.min() + 0.5, BINS + 1)

    def draw(axes: Any) -> None:
        for name, values in groups.items():
            weights = np.full(len(values), 1 / len(values))
            clipped = values.clip(edges[0], edges[-1])
            axes.hist(clipped, edges, weights=weights, alpha=0.5, label=name)
        if threshold is not None:
            axes.axvline(threshold, color="black", linestyle="--", label="threshold")
        axes.set(xlabel=f"score: {score}", ylabel="fraction")
        axes.legend()

    return figure_png(draw)


def threshold_curve(
    groups: dict[str, np.ndarray[Any, Any]], threshold: float | None, score: str
) -> bytes:
    """Draw which fraction of each group lies above a threshold, over the threshold."""
    every = np.concatenate(list(groups.values()))
    places = np.linspace(every.min(), np.percentile(every, FAR), 400)

    def draw(axes: Any) -> None:
        for name, values in groups.items():
            above = 1 - np.searchsorted(np.sort(values), places, side="right") / len(values)
            axes.plot(places, above, label=name)
        if threshold is not None:
            axes.axvline(threshold, color="black", linestyle="--", label="threshold")
        axes.set(xlabel=f"threshold on {score}", ylabel="fraction above it", ylim=(-0.02, 1.02))
        axes.legend()

    return figure_png(draw)
