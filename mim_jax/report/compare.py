"""Several runs on one page: curves overlaid, results side by side, and the settings in which they differ."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mim_jax.errors import CheckpointError
from mim_jax.report import html, metrics, panels, plots, results_table, settings
from mim_jax.report.page import figures, footer, summary, write
from mim_jax.report.run_files import RunFiles
from mim_jax.wording import DASH, metric_title

FILE = "comparison.html"


def write_comparison(run_dirs: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str] = FILE) -> Path:
    """Writes the page that compares runs.

    Raises:
        CheckpointError: one of them is no run, is named twice, or they are too many for one plot; or as `write`.
    """
    folders = [Path(folder) for folder in run_dirs]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise CheckpointError("a run is named twice: name each run that is to be compared once")
    if len(folders) > plots.MOST_LINES:
        raise CheckpointError(f"{len(folders)} runs do not fit one plot: compare {plots.MOST_LINES} at most")
    return write(out, page({name: RunFiles.of(folder) for name, folder in names(folders).items()}))


def names(folders: Sequence[Path]) -> dict[str, Path]:
    """Each folder under the shortest end of its path that no other has."""
    paths = [folder.resolve() for folder in folders]
    length = next(
        n for n in range(1, max(len(path.parts) for path in paths) + 1)
        if len({path.parts[-n:] for path in paths}) == len(paths)
    )  # fmt: skip
    return {"/".join(path.parts[-length:]).replace("//", "/"): f for path, f in zip(paths, folders, strict=True)}


def page(runs: Mapping[str, RunFiles]) -> str:
    """The page as text; runs by the name under which they are shown."""
    title = f"{len(runs)} runs compared"
    found = panels.of_runs({name: run.series for name, run in runs.items()})
    sections = {
        "Summary": _summary(runs),
        "Curves": figures((panel, _newest(panel)) for panel in found),
        "Results": _results(runs),
        "Settings that differ": _settings(runs),
    }
    return html.document(title, [html.header(title, html.escape(", ".join(runs))), html.main(sections), footer()])


def _summary(runs: Mapping[str, RunFiles]) -> str:
    facts = {name: {"method": run.method, **summary(run)} for name, run in runs.items()}
    keys = list(dict.fromkeys(key for found in facts.values() for key in found))
    rows = [[key, *(found.get(key, DASH) for found in facts.values())] for key in keys]
    return html.table(("", *runs), rows, numbers=range(1, len(runs) + 1), name="summary of the runs")


def _results(runs: Mapping[str, RunFiles]) -> str:
    """Each protocol and metric at the latest checkpoint that was judged, a column for each run."""
    newest: dict[tuple[str, str], dict[str, str]] = {}
    for name, run in runs.items():
        for entry in results_table.latest_first(run.results):
            for metric in entry.get("metrics") or {}:
                cell = newest.setdefault((results_table.protocol(entry), metric), {})
                cell.setdefault(name, f"{results_table.value(entry, metric)}{_at(entry, run)}")
    rows = [
        [protocol, metric_title(metric), *(cells.get(name, DASH) for name in runs)]
        for (protocol, metric), cells in newest.items()
    ]
    table = html.table(
        ("protocol", "metric", *runs), rows, numbers=range(2, 2 + len(runs)), name="results of the runs side by side"
    )
    return table + html.note("Shares in %; of each run the latest checkpoint that was judged.") if rows else ""


def _at(entry: Mapping[str, Any], run: RunFiles) -> str:
    """The step of a checkpoint that is not the run's last: such a number compares badly."""
    step, last = (entry.get("checkpoint") or {}).get("step"), metrics.newest_step(run.series)
    return f" (step {step})" if last is not None and step is not None and step != last else ""


def _settings(runs: Mapping[str, RunFiles]) -> str:
    """What all of them have with different values; on demand also what only some have, such as a method's own keys."""
    rows = settings.differing({name: run.config for name, run in runs.items()})
    if not rows:
        return html.note("The configs are equal.")
    shared = [row for row in rows if settings.ABSENT not in row]
    own = [row for row in rows if settings.ABSENT in row]

    def table(chosen: list[list[str]]) -> str:
        columns = range(len(runs) + 1)
        return html.table(("key", *runs), chosen, keys=columns, name="settings that differ")

    return table(shared) + html.details(f"keys that only some of them have ({len(own)})", table(own))


def _newest(panel: plots.Panel) -> str:
    return "newest: " + ", ".join(f"{line.label} {line.points[-1][1]:.4g}" for line in panel.lines)
