"""Accuracy against compute, by system, from the JSON of one budget or several."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: E402

TITLES = {
    "knn": ("kNN, k = 20", "top1_k20"),
    "linear": ("linear probe", "top1"),
    "attentive": ("attentive probe", "top1"),
}
TITLES["finetune"] = ("fine-tuned", "top1")
MARKERS = "osD^vP*X<>hp"


def draw(rows: list[dict[str, Any]], path: Path) -> Path:
    """One panel a protocol: a point a run's system and budget, a line through the budgets of a system.

    Bars are standard deviations over seeds. A horizontal line: raw pixels, which need no training.
    """
    protocols = [name for name in TITLES if any(name in row["protocols"] for row in rows)]
    if not protocols:
        raise SystemExit("there is no result to draw yet")
    systems = list(dict.fromkeys(row["system"] for row in rows))
    figure, axes = plt.subplots(
        1, len(protocols), figsize=(5.2 * len(protocols), 4.6), squeeze=False, layout="constrained"
    )
    for axis, protocol in zip(axes[0], protocols, strict=True):
        _panel(axis, rows, systems, protocol)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(8, max(1, len(labels))), fontsize=8, frameon=False
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
    return path


def _panel(axis: Any, rows: list[dict[str, Any]], systems: list[str], protocol: str) -> None:
    title, metric = TITLES[protocol]
    colours = plt.get_cmap("tab20")
    for place, system in enumerate(systems):
        points = sorted(_points(rows, system, protocol, metric))
        if points:
            x, y, spread = zip(*points, strict=True)
            axis.annotate(system, (x[-1], y[-1]), xytext=(4, 3), textcoords="offset points", fontsize=7)
            look = {
                "marker": MARKERS[place % len(MARKERS)],
                "color": colours(place % 20),
                "markersize": 5,
                "linewidth": 1,
            }
            axis.errorbar(x, y, yerr=spread if any(spread) else None, label=system, capsize=2, **look)
    pixels = [v for row in rows for v in _values(row, protocol, "pixels", metric)]
    if pixels:
        axis.axhline(100 * statistics.fmean(pixels), color="0.5", linewidth=0.8, linestyle=":", label="raw pixels")
    axis.set(xscale="log", xlabel="training FLOPs", title=title)
    axis.margins(x=0.15)
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}".replace("e+", "e")))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_ylabel("top-1 in %")
    axis.grid(alpha=0.3)


def _points(rows: list[dict[str, Any]], system: str, protocol: str, metric: str) -> list[tuple[float, float, float]]:
    """(FLOPs, mean, spread) in per cent."""
    found = []
    for row in rows:
        values = _values(row, protocol, "pretrained", metric) if row["system"] == system else []
        if values:
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            found.append((row["flops"], 100 * statistics.fmean(values), 100 * spread))
    return found


def _values(row: dict[str, Any], protocol: str, who: str, metric: str) -> list[float]:
    return row["protocols"].get(protocol, {}).get("values", {}).get(who, {}).get(metric, [])
