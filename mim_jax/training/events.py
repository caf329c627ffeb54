"""What happened to a run besides training: a line each in `events.jsonl`, and a sentence at the terminal."""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path
from typing import Any

import jax

from mim_jax.training.lines import Lines, cut_lines

FILE = "events.jsonl"


class Events:
    """The events of a run, written by its first process; nothing is ever removed, also where a run goes back.

    Each line has `time` (UTC), `step`, `kind` (such as resume, changed config, damaged checkpoint, disk full, disk has
    space, skipped batch, rewind) and `text`, the sentence.
    """

    def __init__(self, workdir: Path):
        self.step = 0  # where the run is, kept by the loop
        self._lines = None
        if jax.process_index() == 0:
            cut_lines(workdir / FILE, None)  # a line that a kill left half-written
            self._lines = Lines(workdir / FILE)

    def add(self, step: int | None, kind: str, text: str, **more: Any) -> None:
        """Says and keeps one event. step: None for where the run is."""
        step = self.step if step is None else step
        say(text)
        if self._lines:
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            self._lines.write(json.dumps({"time": now, "step": step, "kind": kind, "text": text, **more}))

    def close(self) -> None:
        """Safe to call twice."""
        if self._lines:
            self._lines.close()


def say(sentence: str) -> None:
    """One line for the person at the terminal, once per run."""
    if jax.process_index() == 0:
        print(sentence, file=sys.stderr, flush=True)
