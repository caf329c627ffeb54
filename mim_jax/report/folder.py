"""A folder of runs as pages: which runs there are, how each is doing, and when its page has to be made anew."""

from __future__ import annotations

import collections
import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mim_jax.errors import MimError
from mim_jax.report import html, live, metrics, page
from mim_jax.report.run_files import CONFIG, RunFiles, find
from mim_jax.wording import DASH

EVERY = 10.0  # seconds between two questions of a page, and the least between two renderings of it
KEPT = 64  # pages in memory
MOST = 500  # runs in the list, the newest ones
READ = ("*.json", "*.jsonl", "bad_records*.txt", "pictures/*.png", "eval/analysis/*/*.png", "nonfinite/*")
LISTED = ("*.json", "*.jsonl")
LIST = "/"


class Folder:
    """The runs of a folder, looked for anew each time; pages are made on demand and kept until a file changes.

    Nothing of a request becomes a path: a run is asked for by a name that the folder itself gave it.
    """

    def __init__(self, root: str | os.PathLike[str], every: float | int = EVERY):
        self.root = Path(root).resolve()
        self.every = every
        self._pages: collections.OrderedDict[str, tuple[float, str, str]] = collections.OrderedDict()
        self._rows: dict[str, tuple[str, list[Any]]] = {}
        self._alone = threading.Lock()

    def runs(self) -> dict[str, RunFiles]:
        """Name (path below the folder, '.' for the folder itself) -> run."""
        found = {}
        for folder in find(self.root):
            run = RunFiles(folder, self.root)
            if run.path(CONFIG) is not None:
                found[folder.relative_to(self.root).as_posix()] = run
        newest = sorted(found, key=lambda name: live.newest_change(found[name].folder), reverse=True)
        return {name: found[name] for name in newest[:MOST]}

    def page(self, name: str) -> str | None:
        """The page of a run, or of all of them; None where there is no such page."""
        return self._kept(name, 1)

    def stamp(self, name: str) -> str | None:
        """What changes when the page does; None where there is no such page."""
        return self._kept(name, 0)

    def _kept(self, name: str, which: int) -> str | None:
        """(stamp, page)[which], not older than its files, or than `every` seconds."""
        with self._alone:
            made, stamp, text = self._pages.get(name, (0.0, "", ""))
            if not text or time.monotonic() - made >= self.every:
                found = self._look(name)
                if found is None:
                    self._pages.pop(name, None)
                    return None
                now, render = found
                if now != stamp or not text:
                    stamp, text = now, render(now)
                self._pages[name] = (time.monotonic(), stamp, text)
            self._pages.move_to_end(name)
            while len(self._pages) > KEPT:
                self._pages.popitem(last=False)
            return (stamp, text)[which]

    def _look(self, name: str) -> tuple[str, Callable[[str], str]] | None:
        runs = self.runs()
        if name == LIST:
            # The minute is in it, because the list says how long ago a run was written.
            stamps = {run: stamp_of(files, LISTED) for run, files in runs.items()}
            stamp = _digest([*map(str, stamps.items()), str(int(time.time() // 60))])
            return stamp, lambda stamp: self._list(runs, stamps, stamp)
        if name not in runs:
            return None
        return stamp_of(runs[name]), lambda stamp: self._run(runs[name], stamp)

    def _run(self, run: RunFiles, stamp: str) -> str:
        words, kind = live.state(run)
        top = f"{html.link('/', 'all runs')} · {html.tag(words, kind)} {LIVE_NOTE}"
        try:
            return page.page(run, top=top, stamp=stamp, every=self.every)
        except MimError as error:  # a damaged file: said in the page, which goes on looking
            body = [html.header(run.name, top), html.main({"Summary": html.note(str(error))})]
            return html.document(run.name, body, stamp=stamp, every=self.every)

    def _list(self, runs: dict[str, RunFiles], stamps: dict[str, str], stamp: str) -> str:
        for name, run in runs.items():  # a log is read again only where it has changed
            if self._rows.get(name, ("", []))[0] != stamps[name]:
                self._rows[name] = (stamps[name], row_of(run))
        self._rows = {name: self._rows[name] for name in runs}
        rows = []
        for name, run in runs.items():
            link = html.link(address(name), self.root.name if name == "." else name)
            rows.append([link, *self._rows[name][1], ago(time.time() - live.newest_change(run.folder))])
        headings = ("run", "method", "state", "step", "loss", "kNN", "written")
        table = html.table(headings, rows, numbers=(3, 4, 5), name="runs")
        more = html.note(f"The newest {MOST} runs.") if len(runs) == MOST else ""
        empty = "" if runs else html.note(f"No runs in {self.root} yet: a run is a folder with a {CONFIG}.")
        title = f"Runs in {self.root.name or self.root}"
        body = [html.header(title, LIVE_NOTE), html.main({"Runs": table + more + empty}), page.footer()]
        return html.document(title, body, stamp=stamp, every=self.every)


def row_of(run: RunFiles) -> list[Any]:
    """Method, state, step, loss and kNN of a run."""
    try:
        (words, kind), total, method = live.state(run), run.total_steps, run.method
    except MimError as error:
        return [str(error), html.tag("damaged", "bad"), DASH, DASH, DASH]
    series = run.series
    step, loss, knn = metrics.newest_step(series), metrics.last(series, "loss"), metrics.last(series, "knn")
    return [
        method,
        html.tag(words, kind),
        DASH if step is None else f"{step:,}" + (f" / {total:,}" if total else ""),
        DASH if loss is None else f"{loss:.4f}",
        DASH if knn is None else f"{knn:.1%}",
    ]


LIVE_NOTE = '<span class="dim" id="live" role="status"></span>'


def address(name: str) -> str:
    """Where the page of a run is."""
    return f"/run/{quote(name, safe='/')}/"


def stamp_of(run: RunFiles, patterns: tuple[str, ...] = READ) -> str:
    """Changes when a file that the page is made of does, and when the run begins or ends."""
    paths = (path for pattern in patterns for path in sorted(run.folder.glob(pattern)))
    return _digest([str(live.is_writing(run.folder)), *(f"{path}{_stat(path)}" for path in paths)])


def ago(seconds: float | int) -> str:
    """'just now', '5 min ago', '3 h ago', '12 days ago'."""
    if seconds < 90:
        return "just now"
    for name, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length or name == "min":
            return f"{seconds / length:.0f} {name} ago"
    raise AssertionError("unreachable: minutes fit everything")


def _stat(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:  # gone meanwhile
        return ""
    return f"{status.st_mtime_ns},{status.st_size}"


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode("utf-8", "replace")).hexdigest()[:16]
