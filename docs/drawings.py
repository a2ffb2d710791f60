"""The drawings of docs/architecture.md: python docs/drawings.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

IMAGES = Path(__file__).parent / "images"
INK, FORWARD, BACKWARD, GRADIENT, PLAIN = "#20303c", "#dcebf7", "#fbe4d5", "#e3f1dc", "#f3f4f6"


def canvas(width: float, height: float) -> tuple[Figure, Any]:
    """Make an empty drawing whose coordinates are inches, counted from the top."""
    figure = Figure(figsize=(width, height), dpi=150)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    return figure, axes


def box(
    axes: Any, x: float, y: float, w: float, h: float, text: str, fill: str, **how: Any
) -> None:
    """Draw a box with text in it."""
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0,rounding_size=0.06"
    axes.add_patch(FancyBboxPatch((x, y), w, h, style, facecolor=fill, edgecolor=INK, lw=0.8))
    how = {"ha": "center", "va": "center", "fontsize": 8.5, "color": INK, "linespacing": 1.5, **how}
    axes.text(x + w / 2, y + h / 2, text, **how)


def arrow(axes: Any, start: tuple[float, float], end: tuple[float, float], text: str = "") -> None:
    """Draw an arrow, labelled beside its middle."""
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1})
    if text:
        x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
        axes.text(x + 0.07, y, text, fontsize=8, color=INK, va="center")


def step() -> Figure:
    """Draw one training step of a stack of two layers."""
    figure, axes = canvas(9.0, 5.3)
    titles = ("encode up", "decode down", "back through the decoder", "back through the encoder")
    rows = {  # for each column what happens at layer 1 and at layer 0
        0: ("H1 = f1(c(K1, H0) + b1)", "H0 = f0(c(K0, x) + b0)"),
        1: ("R1 = f0(h(K1, H1) + a1)", "R0 = f_out(h(K0, R1) + a0)"),
        2: ("dK1 += g(H1, E1)\ndH1 = c(K1, E1)", "dK0 += g(R1, E0)\nE1 = c(K0, E0) * f0'"),
        3: (
            "dZ1 = dH1 * f1'\ndK1 += g(dZ1, H0)\ndH0 = h(K1, dZ1)",
            "dZ0 = dH0 * f0'\ndK0 += g(dZ0, x)",
        ),
    }
    for column, title in enumerate(titles):
        x = 0.25 + 2.18 * column
        axes.text(x + 0.98, 0.3, title, ha="center", fontsize=9.5, weight="bold", color=INK)
        fill = FORWARD if column < 2 else BACKWARD
        for row, text in enumerate(rows[column]):
            box(axes, x, 0.6 + 1.35 * row, 1.96, 0.85, text, fill, family="monospace", fontsize=7.2)
    axes.text(8.83, 1.02, "layer 1", rotation=270, va="center", fontsize=8.5, color=INK)
    axes.text(8.83, 2.37, "layer 0", rotation=270, va="center", fontsize=8.5, color=INK)
    box(axes, 0.25, 3.45, 1.96, 0.45, "x  (N, C, *size)", PLAIN)
    box(
        axes,
        2.43,
        3.45,
        4.14,
        0.45,
        "loss: J = mean (R0 - x)², E0 = 2 (R0 - x) / count * f_out'",
        PLAIN,
    )
    arrow(axes, (1.23, 3.45), (1.23, 2.8))
    arrow(axes, (1.23, 1.95), (1.23, 1.45), "H0")
    arrow(axes, (2.21, 1.02), (2.43, 1.02))
    arrow(axes, (3.41, 1.45), (3.41, 1.95), "R1")
    arrow(axes, (3.41, 2.8), (3.41, 3.45), "R0")
    arrow(axes, (5.59, 3.45), (5.59, 2.8), "E0")
    arrow(axes, (5.59, 1.95), (5.59, 1.45), "E1")
    arrow(axes, (6.57, 1.02), (6.79, 1.02))
    arrow(axes, (7.77, 1.45), (7.77, 1.95), "dH0")
    text = "gradients, one flat vector:  dK0  db0  da0  dK1  db1  da1"
    box(axes, 2.43, 4.45, 4.14, 0.5, text, GRADIENT)
    box(axes, 6.79, 4.45, 1.96, 0.5, "clip, Adam\nupdate in place", GRADIENT)
    arrow(axes, (6.57, 4.7), (6.79, 4.7))
    axes.text(
        0.25,
        4.6,
        "blue: forward\norange: backward\ngreen: flat vectors",
        fontsize=8,
        color=INK,
        va="center",
        linespacing=1.5,
    )
    return figure


def memory() -> Figure:
    """Draw how arrays lie in memory."""
    figure, axes = canvas(9.0, 3.9)
    lines = (
        (
            "a batch",
            "logical  (N, C, H, W)",
            "in memory  (N, H, W, C)",
            "channels innermost: one vector instruction serves 16 filters, for any batch size",
        ),
        (
            "a kernel",
            "logical  (O, [tile,] C, kh, kw)",
            "in memory  ([tile,] kh, kw, C, O)",
            "filters innermost: c, h and g read and write it in place",
        ),
    )
    for row, (name, logical, physical, why) in enumerate(lines):
        y = 0.3 + 0.95 * row
        axes.text(0.25, y + 0.22, name, fontsize=10, weight="bold", color=INK, va="center")
        box(axes, 1.75, y, 2.3, 0.45, logical, FORWARD, family="monospace")
        box(axes, 4.55, y, 2.5, 0.45, physical, GRADIENT, family="monospace")
        arrow(axes, (4.05, y + 0.22), (4.55, y + 0.22))
        axes.text(1.75, y + 0.66, why, fontsize=8, color=INK, va="center")
    y = 2.35
    axes.text(0.25, y + 0.22, "parameters", fontsize=10, weight="bold", color=INK, va="center")
    names = ("0.kernel", "0.hidden_bias", "0.visible_bias", "1.kernel", "...")
    widths = (1.7, 1.1, 1.1, 2.4, 0.5)
    x = 1.75
    for name, width in zip(names, widths, strict=True):
        box(axes, x, y, width, 0.45, name, PLAIN, family="monospace", fontsize=7.5)
        x += width
    axes.text(
        1.75,
        y + 0.66,
        "named views on one flat vector; gradients and the optimizer's moments have "
        "the same layout",
        fontsize=8,
        color=INK,
        va="center",
    )
    axes.text(0.25, y + 1.15, "chunks", fontsize=10, weight="bold", color=INK, va="center")
    for index in range(4):
        box(
            axes,
            1.75 + 1.7 * index,
            y + 0.93,
            1.6,
            0.42,
            f"examples {64 * index} to {64 * index + 63}",
            BACKWARD,
            fontsize=7.5,
        )
    return figure


def wings() -> Figure:
    """Draw the wings of the package; imports only go down."""
    figure, axes = canvas(9.0, 3.6)
    floors = (
        (("app", "run, sweeps, command line: the only place for Hydra"),),
        (("training", "optimizers, schedules, step, trainer, state, building from configuration"),),
        (
            ("report", "TensorBoard, pictures, figures, diagnostics"),
            ("export", "ONNX, torch, state dicts"),
        ),
        (
            ("models", "layers, backpropagation, losses, penalties, files"),
            ("data", "datasets, corruption"),
        ),
        (
            (
                "engine",
                "c, h, g and the passes between them: operations, geometry, backend | cpu | gpu",
            ),
        ),
        (("errors  files  configuration  version", "what everything may use"),),
    )
    for row, wings_of_floor in enumerate(floors):
        y = 0.15 + 0.57 * row
        width = (8.5 - 0.1 * (len(wings_of_floor) - 1)) / len(wings_of_floor)
        for column, (name, subject) in enumerate(wings_of_floor):
            x = 0.25 + column * (width + 0.1)
            box(
                axes,
                x,
                y,
                width,
                0.46,
                f"$\\bf{{{name.replace('  ', chr(92) + ' ')}}}$   {subject}",
                FORWARD if row < 5 else PLAIN,
                fontsize=8,
            )
    return figure


if __name__ == "__main__":
    for draw in (step, memory, wings):
        draw().savefig(IMAGES / f"{draw.__name__}.png")
