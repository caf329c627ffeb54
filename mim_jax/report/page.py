"""The page of a run: one HTML file that says what the run's folder holds, and needs nothing else to be read."""

from __future__ import annotations

import datetime
import errno
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mim_jax import __version__
from mim_jax.errors import CheckpointError
from mim_jax.replacing import replacing
from mim_jax.report import embed, happened, html, metrics, panels, plots, results_table, settings, slider
from mim_jax.report.run_files import RunFiles

FILE = "index.html"
MACHINE = ("devices", "versions", "git revision", "peak FLOP/s", "memory of the compiled step")  # of resolved.json


def write_page(run_dir: str | os.PathLike[str], out: str | os.PathLike[str] = "") -> Path:
    """Writes the page from what the run directory holds now; parts that are not there yet are left out.

    out: the file to write, by default index.html in the run. It can be moved anywhere by itself.

    Raises:
        CheckpointError: no run in that directory, a file in it that cannot be read, or a page that cannot be written;
            a page from before is left as it is.
    """
    folder = Path(run_dir)
    return write(out or folder / FILE, page(RunFiles.of(folder)))


def write(path: str | os.PathLike[str], text: str) -> Path:
    """Writes a page whole or not at all.

    Raises:
        CheckpointError: names the page, why it cannot be written, and the mend.
    """
    path = Path(path)
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        mend = "make room there" if full else "name a file that can be written with --out"
        raise CheckpointError(f"{path} cannot be written ({error.strerror or error}); {mend}") from error
    return path


def page(run: RunFiles, *, top: str = "", **live: Any) -> str:
    """The page as text. top: a line of HTML above it all; live: `stamp` and `every` of `html.document`.

    Raises:
        CheckpointError, ConfigError: a file of the run that cannot be read, by name.
    """
    title = f"{run.method} · {run.name}"
    sections = {
        "Summary": html.facts(summary(run)),
        "Reconstructions": slider.part(run),
        "Curves": _curves(run),
        "Results": results_table.part(run.results),
        "Analysis": results_table.analysis(run),
        "Config": settings.part(run),
        "Events": happened.part(run),
        "Environment": _table(flat({k: v for k, v in run.resolved.items() if k in MACHINE})),
        "What the config came to": _table(flat({k: v for k, v in run.resolved.items() if k not in MACHINE})),
        "Run it again": html.commands(_again(run)),
    }
    return html.document(
        title, [html.header(title, top, html.escape(_subtitle(run.config))), html.main(sections), footer()], **live
    )


def footer() -> str:
    now = datetime.datetime.now(datetime.UTC).isoformat(sep=" ", timespec="minutes").removesuffix("+00:00")
    return f"<footer>\n<p>written by mim-jax {html.escape(__version__)}, {now} UTC</p>\n</footer>"


def summary(run: RunFiles) -> dict[str, str]:
    """The handful of numbers that one asks for first."""
    series, found = run.series, {}
    step, total = metrics.newest_step(series), run.total_steps
    if step is not None:
        found["steps"] = f"{step:,}" + (f" of {total:,}" if total else "")
    wanted = {
        "epoch": ("epochs", "{:.4g}"),
        "loss": ("training loss", "{:.4f}"),
        "val_loss": ("held-out loss", "{:.4f}"),
        "knn": ("kNN while training", "{:.1%}"),
        "images_per_sec": ("images/s", "{:,.0f}"),
    }
    for name, (label, form) in wanted.items():
        value = metrics.last(series, name)
        if value is not None:
            found[label] = form.format(value)
    for name, points in panels.over_time(run.results).items():
        found[name] = f"{points[-1][1]:.1%}"
    parameters = run.resolved.get("parameters")
    if isinstance(parameters, Mapping) and metrics.is_number(parameters.get("total")):
        found["parameters"] = f"{parameters['total']:,}"
    return found


def figures(found: Iterable[tuple[plots.Panel, str]]) -> str:
    """One picture per panel, so that they stand below each other on a narrow screen."""
    drawn = [html.figure(embed.svg(plots.svg(panel)), f"{panel.title}, by step; {words}") for panel, words in found]
    return html.row(drawn)


def _curves(run: RunFiles) -> str:
    marks = happened.marks(run)
    groups = panels.of_run(run.series, run.results, marks)
    dotted = html.note("Dotted lines: events, told below.") if marks and "learning" in groups else ""
    return "\n".join(html.heading(name, figures(found)) for name, found in groups.items()) + dotted


def _subtitle(config: Any) -> str:
    data, training = config.data, config.training
    views = [view.get("size", ()) for view in data.views.values() if isinstance(view, Mapping) or hasattr(view, "get")]
    size = " x ".join(map(str, views[0])) if views and isinstance(views[0], Sequence) else "?"
    return (
        f"Pretrained on {data.source} at {size} pixels: {settings.shown(training.epochs)} epochs of batches of "
        f"{training.batch_size}, seed {config.seed}"
    )


def _table(rows: Iterable[tuple[str, Any]]) -> str:
    return html.table(("", ""), [(key, fact(value)) for key, value in rows], keys=(0,), name="facts")


def fact(value: Any) -> str:
    """A number with its thousands apart or with four digits, anything else as it is."""
    if not metrics.is_number(value):
        return settings.shown(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _again(run: RunFiles) -> list[str]:
    """Commands that give this run, its results and its pictures again."""
    here, again = shlex.quote(run.address), shlex.quote(f"{run.address}-again")
    train = f"mim-jax train --config {shlex.quote(str(run.folder / 'config.json'))} --workdir {again}"
    results = dict.fromkeys(str(entry["command"]) for entry in run.results if entry.get("command"))
    return [train, *results, f"mim-jax show {here}", f"mim-jax report {here}"]


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(names joined by a dot, value) of nested facts."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key} · ")
        else:
            yield f"{prefix}{key}", value
