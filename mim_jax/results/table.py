"""Rows as tables: for a terminal, as Markdown, as CSV. What nobody has run is an empty cell."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mim_jax.results.compare import Line, lines, tolerance
from mim_jax.results.row import Measured, Published, Row

FORMATS = ("terminal", "markdown", "csv")
HEAD = ("row", "model", "data", "epochs", "metric", "published", "ours", "difference")
RIGHT = ("epochs", "published", "ours", "difference", "untrained", "pixels", "hours")
OURS = ("row", "model", "data", "epochs", "metric", "ours", "untrained", "pixels", "hours")
WIDTH = 160  # of a table that goes to a file
NOTES = (
    "? beside a published number: it was not checked against the paper. An empty cell: nobody has run it.",
    "* behind a difference: ours lacks more than the row's tolerance.",
)
FLAT = (
    *("kind", "id", "method", "paper", "table", "model", "data", "epochs", "metric", "published", "certainty"),
    *("source", "ours", "spread", "seeds", "difference", "tolerance", "within", "untrained", "pixels", "scale"),
    *("hours", "hardware", "commit", "checkpoint_hash", "config", "command", "note"),
)  # fmt: skip


def show(rows: Sequence[Row], console: Console | None = None) -> None:
    """Prints the tables to a terminal."""
    if console is None:
        console = Console(width=None if sys.stdout.isatty() else WIDTH)
    for title, head, cells in parts(rows):
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        for name in head:
            table.add_column(name, justify="right" if name in RIGHT else "left", overflow="fold", no_wrap=name == "row")
        for line in cells:
            table.add_row(*(escape(cell) for cell in line))
        console.print(table)
    for note in NOTES:
        console.print(note, markup=False)


def markdown(rows: Sequence[Row]) -> str:
    """The tables as Markdown."""
    found = []
    for title, head, cells in parts(rows):
        found += [f"**{title}**", "", f"| {' | '.join(head)} |"]
        found += ["|" + "|".join("---:" if name in RIGHT else "---" for name in head) + "|"]
        found += ["| " + " | ".join(_plain(cell) for cell in line) + " |" for line in cells] + [""]
    return "\n".join([*found, *(f"{note}  " for note in NOTES)])


def to_csv(rows: Sequence[Row]) -> str:
    """One flat table with every column that a program may want."""
    out = io.StringIO()
    writer = csv.DictWriter(out, FLAT, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_flat(line) for line in lines(rows))
    return out.getvalue()


def parts(rows: Sequence[Row]) -> list[tuple[str, tuple[str, ...], list[list[str]]]]:
    """(title, headings, cells) of the two tables: published beside ours, and what was measured at other scales."""
    found = lines(rows)
    beside = [_beside(line) for line in found if line.published]
    alone = [_alone(line.measured) for line in found if line.measured and not line.published]
    tables = [
        ("Published, and ours beside it", HEAD, beside),
        ("Ours alone, not to be held against a paper", OURS, alone),
    ]
    return [part for part in tables if part[2]]


def _beside(line: Line) -> list[str]:
    row = line.row
    assert isinstance(row, Published)
    away = "" if line.difference is None else f"{line.difference:+.2f}{'' if line.within else ' *'}"
    digits = f"{row.value:.1f}" if round(row.value, 1) == row.value else f"{row.value:g}"
    theirs = digits if row.certainty == "certain" else f"{digits} ?"
    return [row.id, row.model, row.data, f"{row.epochs:g}", row.metric, theirs, ours(line.measured), away]


def _alone(row: Measured) -> list[str]:
    others = [_number((row.baselines or {}).get(name)) for name in ("untrained", "pixels")]
    hours = f"{row.hours:.1f}" if row.hours else ""
    return [row.id, row.model, row.data, f"{row.epochs:g}", row.metric, ours(row), *others, hours]


def ours(row: Measured | None) -> str:
    """A measured value with its spread and the number of seeds; '' where there is none."""
    if row is None:
        return ""
    spread = "" if row.spread is None else f" ± {row.spread:.2f} ({len(row.seeds)} seeds)"
    return f"{row.value:.2f}{spread}"


def _number(value: float | int | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _plain(cell: str) -> str:
    """A cell of Markdown: nothing in it ends the cell or begins HTML."""
    return cell.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def _flat(line: Line) -> dict[str, object]:
    row, theirs, mine = line.row, line.published, line.measured
    found: dict[str, object] = {key: getattr(row, key) for key in FLAT if hasattr(row, key)}
    found["kind"] = "published" if theirs else "measured"
    if theirs:
        found |= {"published": theirs.value, "tolerance": tolerance(theirs)}
    if mine:
        found |= {"ours": mine.value, "spread": mine.spread, "seeds": " ".join(map(str, mine.seeds))}
        found |= {
            key: getattr(mine, key) for key in ("scale", "hours", "hardware", "commit", "checkpoint_hash", "command")
        }
        found |= {name: (mine.baselines or {}).get(name) for name in ("untrained", "pixels")}
    if line.difference is not None:
        found |= {"difference": round(line.difference, 4), "within": line.within}
    return {key: "" if value is None else value for key, value in found.items()}
