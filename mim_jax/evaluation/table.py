"""Results as a table: the pretrained encoder beside its baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

TITLES = {"untrained": "untrained encoder", "pixels": "raw pixels"}


def metric_title(name: str) -> str:
    """`top1_k10` -> `top-1, k = 10`."""
    first, _, rest = name.partition("_k")
    first = f"top-{first[3:]}" if first.startswith("top") else first
    return f"{first}, k = {rest}" if rest else first


def percent(value: float | None) -> str:
    """A share as per cent with two decimals; a dash where there is none."""
    return "–" if value is None else f"{100 * value:.2f}"


def rows(entry: Mapping[str, Any]) -> list[list[str]]:
    """One row per metric of a result: its title, the encoder's value, then each baseline's, in per cent."""
    found = [entry["metrics"], *entry["baselines"].values()]
    return [[metric_title(name), *(percent(values.get(name)) for values in found)] for name in entry["metrics"]]


def show(entries: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """Prints results of one evaluation, which share their baselines, as one table."""
    first = entries[0]
    counts = first["counts"]
    table = Table()
    for heading in ("protocol", "feature", "metric"):
        table.add_column(heading)
    for heading in ("pretrained", *(TITLES.get(name, name) for name in first["baselines"])):
        table.add_column(heading, justify="right")
    for entry in entries:
        for row in rows(entry):
            table.add_row(entry["protocol"], entry["feature"], *row)
        table.add_section()
    console = console or Console()
    console.print(
        f"Checkpoint at step {first['checkpoint']['step']}: accuracy in % on {counts['eval']} held-out images of "
        f"{counts['classes']} classes, {counts['train']} to learn from",
        highlight=False,
        soft_wrap=True,
    )
    console.print(table)
