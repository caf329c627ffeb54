"""Runs a recipe: every step that is not done, then the comparison, then our row."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mim_jax.errors import DataError, MimError
from mim_jax.reproduce import process
from mim_jax.reproduce.own_row import row as own_row
from mim_jax.reproduce.progress import Clock, is_done
from mim_jax.reproduce.recipe import Recipe
from mim_jax.results import files
from mim_jax.results.compare import Line, tolerance
from mim_jax.results.row import Measured

LARGEST_LOG = 2_000_000  # bytes that are kept beside the rows


def target(made: Recipe, out: str) -> Path:
    """The file that our row goes to, known to be writable.

    Raises:
        DataError: it cannot be written to, or there is no checkout and no --out.
    """
    if out:
        path = Path(out)
        if not path.parent.is_dir():
            raise DataError(f"there is no folder {path.parent} for --out {out}; make it first")
    elif not in_checkout():
        raise DataError("this mim-jax is installed and has no results of its own to add to; give --out FILE")
    else:
        path = files.folder() / f"{made.row.method}.json"
    files.check_writable(path)
    return path


def in_checkout() -> bool:
    return (files.folder().parent / "pyproject.toml").is_file()


def perform(
    made: Recipe,
    path: Path,
    say: Callable[[str], None] = print,
    run: Callable[[Sequence[str]], int] = process.run,
) -> Measured:
    """Carries out what is not done yet, and adds our row to `path`; returns it.

    Raises:
        MimError: a step failed; the same command begins again there.
        Stopped: a signal came.
    """
    clock = Clock(made.workdir)
    for number, step in enumerate(made.steps, 1):
        which = f"step {number} of {len(made.steps)}, {step.name}"
        if is_done(step):
            say(f"{which}: done already")
            continue
        say(f"{which}: {step.command}")
        began = time.monotonic()
        try:
            code = run(step.argv)
        finally:
            clock.add(step, time.monotonic() - began)
        if code:
            raise MimError(
                f"{which} ended with exit code {code}; mend what it says, and the same command goes on there"
            )
        if not is_done(step):
            raise MimError(f"{which} has not come to its end; the same command goes on there")
    mine = own_row(made, clock, log=_log_name(made, path))
    _keep_log(made, mine, path)
    added = files.append(path, [mine])
    say(f"{'added to' if added else 'stood already in'} {path}: {mine.id}")
    return mine


def verdict(made: Recipe, mine: Measured) -> tuple[str, bool]:
    """The comparison in a sentence, and whether it is as good as was published (True where it cannot be compared)."""
    spread = "" if mine.spread is None else f" ± {mine.spread:.2f} over {len(mine.seeds)} seeds"
    ours = f"{mine.metric}: {mine.value:.2f}{spread}"
    others = ", ".join(f"{name} {value:.2f}" for name, value in (mine.baselines or {}).items())
    ours += f" ({others})" if others else ""
    theirs = f"{made.row.value:g}" + (" (uncertain)" if made.row.certainty != "certain" else "")
    line = Line(made.row, mine)
    if line.difference is None:
        return f"{ours}; published, at another scale and not to be compared: {theirs}", True
    words = "within" if line.within else "outside"
    return f"{ours}; published {theirs}, difference {line.difference:+.2f}, {words} {tolerance(made.row):g}", bool(
        line.within
    )


def _log_name(made: Recipe, path: Path) -> str:
    """Where the log of the first seed is kept: beside the rows of a checkout, nowhere else."""
    log = made.of_seed(0)[-1].run / "metrics.jsonl"
    if not in_checkout() or path.parent != files.folder() or not log.is_file() or log.stat().st_size > LARGEST_LOG:
        return ""
    return f"results/logs/{made.workdir.name}.jsonl"


def _keep_log(made: Recipe, mine: Measured, path: Path) -> None:
    if mine.log:
        kept = path.parent / "logs" / Path(mine.log).name
        kept.parent.mkdir(exist_ok=True)
        shutil.copyfile(made.of_seed(0)[-1].run / "metrics.jsonl", kept)
