"""A published row beside the measured rows that repeat it, and the choice of rows that a table shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from mim_jax.errors import DataError, nearest
from mim_jax.results.metrics import measure
from mim_jax.results.row import Measured, Published, Row


class Line(NamedTuple):
    """A line of a table: one of the two is None where a number has no counterpart."""

    published: Published | None
    measured: Measured | None

    @property
    def row(self) -> Row:
        found = self.published or self.measured
        assert found is not None
        return found

    @property
    def difference(self) -> float | None:
        """Ours less theirs, where both are at one scale."""
        if self.published is None or self.measured is None or self.measured.scale:
            return None
        return self.measured.value - self.published.value

    @property
    def within(self) -> bool | None:
        """Whether ours is as good, or lacks no more than the tolerance; more than the paper's is never a fault."""
        if self.difference is None or self.published is None:
            return None
        worse = self.difference if lower_is_better(self.published.metric) else -self.difference
        return worse <= tolerance(self.published)


def tolerance(row: Published) -> float:
    """How far ours may be from a published row: as the row says, or as is usual for its measure."""
    return row.tolerance or measure(row.metric).tolerance


def lower_is_better(metric: str) -> bool:
    return "error" in metric or "loss" in metric


def lines(rows: Sequence[Row]) -> list[Line]:
    """Published rows in their order, each with every measured row at its own scale that repeats it (or with none), and
    then the measured rows that repeat none. A number at another scale stands for itself."""
    published = [row for row in rows if isinstance(row, Published)]
    ours: dict[str, list[Measured | None]] = {}
    alone = []
    known = {row.id for row in published}
    for row in rows:
        if isinstance(row, Measured) and row.row in known and not row.scale:
            ours.setdefault(row.row, []).append(row)
        elif isinstance(row, Measured):
            alone.append(row)
    nobody: list[Measured | None] = [None]
    found = [Line(row, mine) for row in published for mine in ours.get(row.id, nobody)]
    return found + [Line(None, row) for row in alone]


def choose(
    rows: Sequence[Row], *, system: str = "", model: str = "", data: str = "", metric: str = "", row: str = ""
) -> list[Row]:
    """The rows of a system whose model, data, metric and id hold the words; case does not count.

    Raises:
        DataError: there is none; names what is nearest.
    """
    fields: tuple[tuple[str, str, Callable[[Row], str]], ...] = (
        ("system", system, lambda r: r.method),
        ("model", model, lambda r: r.model),
        ("data", data, lambda r: r.data),
        ("metric", metric, lambda r: r.metric),
        ("row", row, lambda r: r.id),
    )
    for name, wanted, of in fields:
        word = wanted.lower()
        chosen = [r for r in rows if not word or (of(r).lower() == word if name == "system" else word in of(r).lower())]
        if rows and not chosen:
            raise DataError(f"no row has {name} '{wanted}'{nearest(wanted, {of(r) for r in rows})}")
        rows = chosen
    return list(rows)


def only_run(rows: Sequence[Row]) -> list[Row]:
    """The measured rows, and the published ones that a measured row repeats."""
    repeated = {row.row for row in rows if isinstance(row, Measured)}
    return [row for row in rows if isinstance(row, Measured) or row.id in repeated]
