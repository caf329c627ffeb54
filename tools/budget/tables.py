"""Rows of a budget as Markdown."""

from __future__ import annotations

import statistics
from typing import Any

COLUMNS = (
    ("kNN k=10", "knn", "top1_k10"),
    ("kNN k=20", "knn", "top1_k20"),
    ("linear", "linear", "top1"),
    ("attentive", "attentive", "top1"),
    ("fine-tuned", "finetune", "top1"),
)
WHO = ("pretrained", "untrained", "pixels")


def table(rows: list[dict[str, Any]]) -> str:
    """Top-1 in %, pretrained / untrained / pixels, with the sample's standard deviation where there are several seeds.

    A column that nobody has run is left out, a cell that nobody has run is empty.
    """
    columns = [column for column in COLUMNS if any(cell(row, *column[1:]) for row in rows)]
    head = ["system", "seeds", "images seen", "TFLOPs", *(title for title, *_ in columns)]
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    for row in rows:
        cells = [row["system"], str(len(row["seeds"])), f"{row['images']:,}", amount(row["flops"] / 1e12)]
        lines.append("| " + " | ".join([*cells, *(cell(row, *column[1:]) for column in columns)]) + " |")
    return "\n".join(lines)


def cell(row: dict[str, Any], protocol: str, metric: str) -> str:
    """`45.2 ± 0.3 / 38.8 / 37.1`; '' where the protocol was not run."""
    values = row["protocols"].get(protocol, {}).get("values", {})
    found = [values[who][metric] for who in WHO if metric in values.get(who, {})]
    return " / ".join(number(by_seed) for by_seed in found)


def amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def number(by_seed: list[float]) -> str:
    mean = f"{100 * statistics.fmean(by_seed):.1f}"
    spread = statistics.stdev(by_seed) if len(by_seed) > 1 else 0.0
    return f"{mean} ± {100 * spread:.1f}" if spread else mean
