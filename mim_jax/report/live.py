"""Whether a run is still being written, judged without touching it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from pathlib import Path

from mim_jax.report import metrics
from mim_jax.report.run_files import RunFiles

LOCK = ".lock"  # as `training.lock.FILE`, whose module starts JAX
FRESH = 120.0  # seconds; where the lock names no process of this host, files that changed so lately are being written
WRITTEN = ("metrics.jsonl", "events.jsonl", "config.json")


def state(run: RunFiles) -> tuple[str, str]:
    """(words, kind of label): writing, finished or stopped, as far as the folder tells."""
    if is_writing(run.folder):
        return "writing", "good"
    step, total = metrics.newest_step(run.series), run.total_steps
    if step is not None and total is not None and step >= total:
        return "finished", ""
    return ("stopped", "warn") if step is not None else ("nothing logged", "")


def is_writing(folder: Path) -> bool:
    """Whether a process writes there: by the run's lock on this host, by the age of its files on another."""
    try:
        with (folder / LOCK).open("rb") as file:
            owner = _owner(file.read(4096))
            if owner.get("host") != socket.gethostname():
                return _is_fresh(folder)
            # The lock itself is asked only while its owner may live: asking takes it for a moment, which must not get
            # in the way of a run that begins.
            return _is_alive(owner.get("pid")) and _is_locked(file.fileno())
    except OSError:
        return False


def newest_change(folder: Path) -> float:
    """When the log of a run was last written: seconds since 1970, 0 where there is none."""
    return max(_changed(folder / name) for name in WRITTEN)


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _owner(text: bytes) -> dict:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_fresh(folder: Path) -> bool:
    return time.time() - newest_change(folder) < FRESH


def _is_alive(pid: object) -> bool:
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is there, and another user's
        return True
    return True


def _is_locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    fcntl.flock(file, fcntl.LOCK_UN)
    return False
