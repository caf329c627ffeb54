"""What an evaluation that was interrupted had found already: RUN/eval/unfinished.json, gone once it ends."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import jax

from mim_jax import __version__
from mim_jax.evaluation.protocol import Numbers, Protocol
from mim_jax.replacing import replacing

FILE = "eval/unfinished.json"


def job_key(protocol: Protocol, encoder: str, seed: int, checkpoint_hash: str, data: Any, limit: int) -> str:
    """Sixteen hex digits that are equal only where everything is equal that a protocol's numbers rest on."""
    settings = [protocol.name, dataclasses.asdict(protocol), encoder, seed, checkpoint_hash, data.to_dict(), limit]
    text = json.dumps([*settings, __version__], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Unfinished:
    """Finished jobs of an evaluation by key, on disk as soon as they are known; other processes only read."""

    def __init__(self, run_dir: str | os.PathLike[str]):
        self.path = Path(run_dir) / FILE
        try:
            found = json.loads(self.path.read_text())
        except (OSError, ValueError):  # none, or one that a full disk cut off: those jobs run again
            found = {}
        self._done: dict[str, Any] = found if isinstance(found, dict) else {}
        self._mine: set[str] = set()

    def get(self, key: str) -> Numbers | None:
        """What a job found, or None where it has not been done."""
        if key not in self._done:
            return None
        self._mine.add(key)
        return Numbers(**self._done[key])

    def add(self, key: str, numbers: Numbers) -> None:
        """Keeps what a job found."""
        self._done[key] = dataclasses.asdict(numbers)
        self._mine.add(key)
        self._write()

    def clear(self) -> None:
        """Forgets the jobs that were asked for here; those of another unfinished evaluation stay."""
        self._done = {key: numbers for key, numbers in self._done.items() if key not in self._mine}
        self._write()

    def _write(self) -> None:
        if jax.process_index() != 0:
            return
        if not self._done:
            self.path.unlink(missing_ok=True)
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as temporary:
            temporary.write_text(json.dumps(self._done))
