"""One panel of curves as SVG, readable on light and on dark."""

from __future__ import annotations

import dataclasses
import io
import threading
import warnings
from collections.abc import Sequence
from typing import Any

from mim_jax.plotting import matplotlib
from mim_jax.report import metrics

FEW = 30  # points; up to so many are marked one by one
WIDE_RANGE = (
    30.0  # a measure that spans more than this factor is drawn on a logarithmic axis, where the panel allows it
)
# Each stands out against white and against a dark page; then the same again with other dashes.
COLOURS = ("#2f7de1", "#d9730d", "#1f9d6b", "#c9428f", "#8b6fe0", "#9a8412", "#168fa6", "#d8504d")
DASHES = ("-", "--", ":", "-.")
MOST_LINES = len(COLOURS) * len(DASHES)
# Colours that no line has, replaced by those of the reader's light or dark screen.
INK, FAINT = "#1a1b1c", "#8a8b8c"
THEME = (
    "<style>svg{--ink:#24292f;--faint:#c9d1d9}"
    "@media (prefers-color-scheme:dark){svg{--ink:#d5dbe1;--faint:#3d454e}}</style>"
)
LOOK = {
    "svg.hashsalt": "mim_jax",
    "svg.fonttype": "none",  # the reader's own fonts: sharp, small, and they know every letter
    "text.parse_math": False,  # a name with a dollar is a name
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.labelsize": 9,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.edgecolor", "grid.color"), FAINT),
}
_drawing = threading.Lock()  # matplotlib's settings are global


@dataclasses.dataclass(frozen=True)
class Line:
    """label: for the legend, '' for none. style: which colour and dash. points_only: dots without a line."""

    label: str
    points: Sequence[metrics.Point]
    style: int = 0
    points_only: bool = False


@dataclasses.dataclass(frozen=True)
class Panel:
    """Curves that share their axes. marks: steps at which something happened. logarithmic: where the range is wide."""

    title: str
    lines: tuple[Line, ...]
    xlabel: str = "step"
    marks: tuple[metrics.Number, ...] = ()
    logarithmic: bool = False


def draw(panel: Panel) -> Any:
    """The panel as a matplotlib Figure."""
    figure = matplotlib().figure.Figure(figsize=(4.4, 3.0), layout="constrained")
    axes = figure.subplots()
    for mark in panel.marks:
        axes.axvline(mark, color=FAINT, linewidth=1.0, linestyle=(0, (2, 2)), zorder=1)
    handles = [_line(axes, line, number) for number, line in enumerate(panel.lines)]
    named = [(handle, _shown(line.label)) for handle, line in zip(handles, panel.lines, strict=True) if line.label]
    if named:
        axes.legend(*zip(*named, strict=True), frameon=False, fontsize=8.5)
    if panel.logarithmic and _is_wide(panel):
        ticker = matplotlib().ticker
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    axes.set_title(_shown(panel.title, 60))
    axes.set_xlabel(panel.xlabel)
    axes.grid(alpha=0.6, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def svg(panel: Panel) -> str:
    """The panel as SVG text, the same for the same numbers."""
    buffer = io.StringIO()
    with _drawing, matplotlib().rc_context(LOOK), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # it measures with one font; the reader's is shown
        draw(panel).savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue().replace(INK, "var(--ink)").replace(FAINT, "var(--faint)")
    return text.replace("<defs>", f"{THEME}<defs>", 1)


def _line(axes: Any, line: Line, number: int) -> Any:
    points = metrics.thin(line.points)
    across, up = zip(*points, strict=True)
    # A metric measured now and then, perhaps only once, would be invisible as a bare line.
    (drawn,) = axes.plot(
        across,
        up,
        marker="o" if len(points) <= FEW or line.points_only else "",
        markersize=5 if line.points_only else 3,
        linewidth=1.5,
        linestyle="" if line.points_only else DASHES[line.style // len(COLOURS) % len(DASHES)],
        color=COLOURS[line.style % len(COLOURS)],
        zorder=2 + number,
    )
    return drawn


def _is_wide(panel: Panel) -> bool:
    values = [value for line in panel.lines for _, value in line.points]
    return min(values) > 0 and max(values) / min(values) > WIDE_RANGE


def _shown(text: str, most: int = 32) -> str:
    """A label that fits and that matplotlib takes as it is (it hides labels that begin with an underscore)."""
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    text = text if len(text) <= most else f"{text[: most // 2]}…{text[-most // 2 + 1 :]}"
    return f" {text}" if text.startswith("_") else text
