"""`results/SYSTEM.json`: an object of `published` and `measured` rows, one row a line; rows are only ever added."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mim_jax import shipped
from mim_jax.errors import DataError, MimError, nearest
from mim_jax.replacing import alone, replacing
from mim_jax.results.row import Measured, Published, Row

# Of the folder, that hold no rows.
OTHERS = ("reliability.json", "weights.json", "same_budget.json", "reference_cases.json")


def folder() -> Path:
    """Where results are: the checkout's `results`, else what came with the package."""
    return shipped.folder("results")


def paths(where: Path | None = None) -> list[Path]:
    """The files that hold rows.

    Raises:
        DataError: there are none.
    """
    where = where or folder()
    found = [path for path in sorted(where.glob("*.json")) if path.name not in OTHERS]
    if not found:
        raise DataError(f"{where} holds no results; install the package whole, or run from a checkout")
    return found


def read(path: Path) -> tuple[list[Published], list[Measured]]:
    """The rows of a file.

    Raises:
        DataError: it cannot be read, or a row in it is not whole.
    """
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as results: {error}; give a file that `mim-jax reproduce --out` wrote"
        ) from error
    if not isinstance(values, dict) or set(values) != {"published", "measured"}:
        raise DataError(f"{path} is not an object of the two lists 'published' and 'measured'; make it one")
    if not all(isinstance(rows, list) and all(isinstance(row, dict) for row in rows) for rows in values.values()):
        raise DataError(f"{path}: 'published' and 'measured' are lists of objects; make them so")
    published = [Published.read(row, path.name) for row in values["published"]]
    return published, [Measured.read(row, path.name) for row in values["measured"]]


def load(where: Path | None = None, others: Sequence[Path] = ()) -> list[Row]:
    """All rows of a folder (by default `folder()`) and of other files, the published before the measured.

    Raises:
        DataError: a file or a row that is not whole, or an id that stands twice.
    """
    published: list[Row] = []
    measured: list[Row] = []
    for path in [*paths(where), *others]:
        theirs, ours = read(path)
        published += theirs
        measured += ours
    rows, seen = published + measured, set()
    for row in rows:
        if row.id in seen:
            raise DataError(f"two rows have the id {row.id}; give one of them another last word")
        seen.add(row.id)
    return rows


def find(name: str, rows: Sequence[Row]) -> Published:
    """The published row with an id, or with the only id that begins or ends so.

    Raises:
        MimError: none, or several.
    """
    ids = {row.id: row for row in rows if isinstance(row, Published)}
    if name in ids:
        return ids[name]
    close = [row for key, row in ids.items() if key.startswith(f"{name}/") or key.endswith(f"/{name}")]
    if len(close) == 1:
        return close[0]
    if close:
        some = ", ".join(row.id for row in close[:5]) + (", ..." if len(close) > 5 else "")
        raise MimError(f"'{name}' stands for {len(close)} rows: {some}; give one of them whole")
    raise MimError(f"there is no published row '{name}'{nearest(name, ids, 4, 0.5)} (`mim-jax results` lists all)")


def check_writable(path: Path) -> None:
    """Refuses, before anything is computed, a place where no row can be added.

    Raises:
        DataError: a file that is not one of results, or a folder that cannot be written to.
    """
    if path.exists():
        read(path)
    if not os.access(path if path.exists() else path.parent, os.W_OK) or not os.access(path.parent, os.W_OK):
        raise DataError(f"{path} cannot be written to; give another file with --out FILE")


def append(path: Path, rows: Sequence[Measured]) -> list[Measured]:
    """Adds measured rows to a file, all or none, and returns those that were not there yet.

    Nothing that stands there is changed, and two who add at once do not lose each other's.

    Raises:
        DataError: the file there is not one of results (it is left as it is), or the disk does not take it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with alone(path.parent):
        published, measured = read(path) if path.exists() else ([], [])
        known = {row.id for row in (*published, *measured)}
        new = [row for row in rows if row.id not in known]
        if new:
            _write(path, text(published, [*measured, *new]))
    return new


def text(published: Sequence[Published], measured: Sequence[Measured]) -> str:
    """A file of results: one row a line."""

    def lines(rows: Sequence[Row]) -> str:
        dumped = [json.dumps(_plain(row.to_json()), ensure_ascii=False, allow_nan=False) for row in rows]
        return "[\n " + ",\n ".join(dumped) + "\n]" if dumped else "[]"

    return f'{{"published": {lines(published)},\n"measured": {lines(measured)}}}\n'


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """800.0 as 800."""
    return {
        key: int(v) if isinstance(v, float) and key == "epochs" and v.is_integer() else v for key, v in values.items()
    }


def _write(path: Path, content: str) -> None:
    try:
        with replacing(path) as temporary:
            temporary.write_text(content)
    except OSError as error:
        raise DataError(f"{path} could not be written ({error}); it is as it was") from error
