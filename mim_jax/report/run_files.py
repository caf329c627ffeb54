"""What the folder of a run holds, read for its page; what an older or a young run lacks is empty."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mim_jax import config as configs
from mim_jax.errors import CheckpointError
from mim_jax.report import metrics
from mim_jax.training.lines import read_lines

CONFIG = "config.json"
HOME = ".home"  # as `training.bucket.HOME`, whose module starts JAX
DEEPEST = 3  # folders below which runs are looked for
NOT_RUNS = ("checkpoints", "frozen", "variables", "eval", "pictures", "records", "nonfinite", "tensorboard", "wandb")


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """The files of one run.

    within: a folder that nothing is read from outside of, also by way of links; None where the reader's own rights are
    the limit.
    """

    folder: Path
    within: Path | None = None

    @classmethod
    def of(cls, folder: Path, within: Path | None = None) -> RunFiles:
        """Raises CheckpointError where there is no run; names the runs below it."""
        made = cls(folder, within)
        if made.path(CONFIG) is None:
            below = [str(found) for found in find(folder)][:3] if folder.is_dir() else []
            hint = f"; runs below it: {', '.join(below)}" if below else ""
            raise CheckpointError(f"{folder} is no run: it has no {CONFIG}{hint}")
        return made

    def path(self, name: str) -> Path | None:
        """A file of the run that may be read, or None."""
        path = self.folder / name
        return path if os.path.isfile(path) and self._allows(path) else None

    def glob(self, pattern: str) -> list[Path]:
        """The files of a pattern that may be read, by name."""
        found = (path.relative_to(self.folder).as_posix() for path in self.folder.glob(pattern))
        return [path for name in sorted(found) if (path := self.path(name)) is not None]

    def below(self, name: str, pattern: str) -> list[str]:
        """Names of folders in a folder of the run."""
        folder = self.folder / name
        return sorted(path.name for path in folder.glob(pattern) if path.is_dir()) if self._allows(folder) else []

    @functools.cached_property
    def config(self) -> Any:
        """Raises ConfigError at a damaged file."""
        return configs.load_json(self.folder / CONFIG)

    @functools.cached_property
    def resolved(self) -> Mapping[str, Any]:
        return self._json("resolved.json", {}, "an object")

    @functools.cached_property
    def results(self) -> list[dict[str, Any]]:
        return [entry for entry in self._json("eval.json", [], "a list of results") if isinstance(entry, dict)]

    @functools.cached_property
    def series(self) -> metrics.Series:
        return self._read("metrics.jsonl", metrics.parse, {})

    @functools.cached_property
    def events(self) -> list[dict[str, Any]]:
        return self._read("events.jsonl", read_lines, [])

    @functools.cached_property
    def changes(self) -> list[dict[str, Any]]:
        return self._read("changes.jsonl", read_lines, [])

    @functools.cached_property
    def bad_records(self) -> list[tuple[str, str]]:
        """(number, sentence) of every record that was skipped."""
        found = {}
        for path in self.glob("bad_records*.txt"):
            for line in self._read(path.name, _text, "").splitlines():
                number, _, sentence = line.partition("\t")
                if number.isdigit():
                    found[number] = sentence
        return list(found.items())

    @functools.cached_property
    def address(self) -> str:
        """The folder, or the address whose files it holds here for a while."""
        return self._read(HOME, _text, str(self.folder)).strip()

    @property
    def name(self) -> str:
        return self.address.rpartition("/")[2] if self.path(HOME) else self.folder.resolve().name

    @property
    def method(self) -> str:
        return str(self.config.method.get("name", "run"))

    @property
    def total_steps(self) -> int | None:
        steps = self.resolved.get("steps")
        total = steps.get("total") if isinstance(steps, Mapping) else None
        return int(total) if metrics.is_number(total) else None

    def _allows(self, path: Path) -> bool:
        return self.within is None or path.resolve().is_relative_to(self.within)

    def _read(self, name: str, reader: Callable[[Path], Any], absent: Any) -> Any:
        path = self.path(name)
        try:
            return absent if path is None else reader(path)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read ({error.strerror or error}); make it readable") from error

    def _json(self, name: str, absent: Any, what: str) -> Any:
        path = self.folder / name
        try:
            found = self._read(name, lambda path: json.loads(path.read_text(encoding="utf-8")), absent)
        except (ValueError, RecursionError) as error:
            mend = "move it away or mend it, then write the page again"
            raise CheckpointError(f"{path} is damaged ({error}); {mend}") from error
        if not isinstance(found, type(absent)):
            raise CheckpointError(f"{path} is damaged (it is not {what}); move it away or mend it")
        return found


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def find(root: Path, deepest: int = DEEPEST) -> Iterator[Path]:
    """The runs in a folder and below it, by name; links to folders are not followed."""
    if os.path.isfile(root / CONFIG):  # unlike Path.is_file without a fault where the folder may not be entered
        yield root
    if deepest:
        try:
            below = sorted(
                entry.name
                for entry in root.iterdir()
                if entry.is_dir() and not entry.is_symlink() and entry.name not in NOT_RUNS
            )
        except OSError:  # a folder that may not be read has no runs to show
            return
        for name in below:
            if not name.startswith("."):
                yield from find(root / name, deepest - 1)
