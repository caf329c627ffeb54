"""Files of lines that only grow: metrics, events, record numbers. A full disk delays them and stops nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mim_jax.replacing import replacing

MOST = 1 << 24  # bytes that wait for a disk with space; the oldest whole lines are dropped beyond


class Lines:
    """Appends lines to a file; what the disk does not take waits in memory and is tried again with the next line.

    trouble: is told, once each time it begins, why the disk took nothing; relief: that it takes lines again.
    """

    def __init__(
        self,
        path: Path,
        trouble: Callable[[str], None] = lambda why: None,
        relief: Callable[[], None] = lambda: None,
    ):
        self._path, self._trouble, self._relief = path, trouble, relief
        self._waiting, self._in_trouble = bytearray(), False
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def write(self, line: str) -> None:
        """Adds one line (without its end)."""
        self._waiting += line.encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        """Tries to write what waits."""
        if self._file < 0 or not self._waiting:
            return
        try:
            while self._waiting:
                del self._waiting[: os.write(self._file, self._waiting)]
        except OSError as error:
            if len(self._waiting) > MOST:
                del self._waiting[: self._waiting.index(b"\n", len(self._waiting) - MOST) + 1]
            if not self._in_trouble:
                self._in_trouble = True
                self._trouble(f"{self._path}: {error.strerror or error}")
            return
        if self._in_trouble:
            self._in_trouble = False
            self._relief()

    def cut(self, last_step: int) -> None:
        """Removes the lines of steps after `last_step`."""
        self.flush()
        self._waiting.clear()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            cut_lines(self._path, last_step)
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def close(self) -> None:
        """A last try, then the end; safe to call twice."""
        self.flush()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def cut_lines(path: Path, last_step: int | None) -> None:
    """Removes half-written lines from a file of JSON lines and, unless `last_step` is None, lines of later steps."""
    if not path.exists():
        return
    before = path.read_text(encoding="utf-8", errors="replace")
    after = "".join(line + "\n" for line in before.split("\n") if _stays(line, last_step))
    if after != before:
        with replacing(path) as temporary:
            temporary.write_text(after, encoding="utf-8")


def _stays(line: str, last_step: int | None) -> bool:
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return False
    return last_step is None or step <= last_step


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, without what is half-written; [] where there is no file."""
    return list(_whole(path.read_text(encoding="utf-8", errors="replace").split("\n"))) if path.exists() else []


def _whole(lines: Iterable[str]) -> Iterable[dict[str, Any]]:
    for line in lines:
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes a JSON file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n")
