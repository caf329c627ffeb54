"""Results of verification as a table for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mim_jax.interop.compare import Row


def print_rows(console: Console, title: str, rows: Sequence[Row], footnotes: Sequence[str], details: bool) -> None:
    """One line per array, and per parameter where `details` asks for it or the parameter's array fails."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=False)
    table.add_column("array", overflow="fold")
    table.add_column("difference / largest", justify="right", no_wrap=True)
    table.add_column("tolerance", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("", overflow="fold")
    for row in rows:
        tolerance = f"{row.tolerance:.0e}" if row.error is not None else ""
        table.add_row(Text(row.name), number(row.error), tolerance, verdict(row.ok), Text(row.note))
        for name, error in row.entries:
            if details or error > row.tolerance:
                table.add_row(Text(f"  {name}"), number(error), tolerance, verdict(error <= row.tolerance), "")
    console.print(Text(title, style="bold"))
    console.print(table)
    for note in footnotes:
        console.print(Text(f"  {note}", style="dim"))


def print_refusal(console: Console, error: Exception) -> None:
    """Why a case was not run, in one line however long."""
    console.print(Text(str(error), style="red"), soft_wrap=True)


def number(error: float | None) -> str:
    return "" if error is None else f"{error:.1e}"


def verdict(ok: bool) -> Text:
    return Text("pass", style="green") if ok else Text("FAIL", style="bold red")


def print_summary(console: Console, results: Sequence[tuple[str, bool, str]]) -> None:
    """One line per case: (title, passed, remark)."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("case", overflow="fold")
    table.add_column("")
    table.add_column("", overflow="fold")
    for title, ok, remark in results:
        table.add_row(Text(title), verdict(ok), Text(remark))
    console.print(table)
