"""One run, one writer: a second process in the same workdir is refused.

On a local disk or NFS the operating system holds the lock and lets go when its owner ends, however it ends. A bucket
has no such locks: there an object with a heartbeat stands in for it.
"""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from mim_jax.errors import ConfigError

FILE = ".lock"
BEAT, STALE = 20.0, 120.0  # seconds between heartbeats; without one for so long the owner counts as dead


class RunLock:
    """Held while open. In a run of several processes the first one holds it, and all learn of a refusal.

    Raises:
        ConfigError: another process has it; the sentence says which, where and since when.
    """

    def __init__(self, workdir: str | os.PathLike[str]):
        self._where = os.fspath(workdir)
        self._held: _FileLock | _ObjectLock | None = None

    def __enter__(self) -> RunLock:
        refusal = ""
        if jax.process_index() == 0:
            for kind in (_ObjectLock,) if "://" in self._where else (_FileLock, _ObjectLock):
                self._held = kind(self._where)
                answer = self._held.take()
                if answer is not None:  # None: no such locks here
                    break
            refusal = answer or ""
            if refusal:
                self._held = None
        if jax.process_count() > 1 and multihost_utils.broadcast_one_to_all(np.asarray(bool(refusal))):
            refusal = refusal or f"{self._where} is being written by another run; process 0 says which"
        if refusal:
            raise ConfigError(refusal)
        return self

    def __exit__(self, *_) -> None:
        if self._held:
            self._held.give_back()
            self._held = None


def is_held(folder: str | os.PathLike[str]) -> bool:
    """Whether a process of this host holds the lock of a local folder."""
    path = Path(folder) / FILE
    if not path.exists():
        return False
    lock = _FileLock(os.fspath(folder))
    answer = lock.take()
    if answer == "":
        lock.give_back()
    return bool(answer)


class _FileLock:
    def __init__(self, where: str):
        self._path = Path(where) / FILE
        self._file = -1

    def take(self) -> str | None:
        """'' or the sentence why not; None where the file system has no locks."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _parsed(os.pread(self._file, 4096, 0).decode(errors="replace"))
            os.close(self._file)
            return _sentence(self._path.parent, owner, "; wait for it, stop it, or give another --workdir")
        except OSError:
            os.close(self._file)
            return None
        try:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, json.dumps(_me()).encode(), 0)
        except OSError:  # a full disk: the lock holds all the same, only its owner stays unnamed
            pass
        return ""

    def give_back(self) -> None:
        os.close(self._file)  # the file stays: removing it would let two owners lock two files of one name


class _ObjectLock:
    """host, pid and the time of the last heartbeat in one object, for places without locks."""

    def __init__(self, where: str):
        self._path = epath.Path(where) / FILE
        self._me = {**_me(), "token": os.urandom(8).hex()}
        self._ended = threading.Event()
        self._beats: threading.Thread | None = None

    def take(self) -> str | None:
        owner = self._owner()
        if owner and time.time() - float(owner.get("beat", 0)) < STALE:
            mend = (
                f"; if it is dead, wait {STALE:.0f} s or remove {self._path} "
                f"(such as `gcloud storage rm {self._path}`), else give another --workdir"
            )
            return _sentence(self._path.parent, owner, mend)
        self._beat()
        # Two that came at once have both written; the object names the one whose writing came last.
        if (owner := self._owner()) and owner.get("token") != self._me["token"]:
            return _sentence(self._path.parent, owner, "; give another --workdir")
        self._beats = threading.Thread(target=self._go_on, daemon=True)
        self._beats.start()
        return ""

    def give_back(self) -> None:
        self._ended.set()
        if self._beats:
            self._beats.join()
        owner = self._owner()
        if owner and owner.get("token") == self._me["token"]:
            self._path.unlink()

    def _owner(self) -> dict[str, Any]:
        return _parsed(self._path.read_text()) if self._path.exists() else {}

    def _beat(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps({**self._me, "beat": time.time()}))

    def _go_on(self) -> None:
        while not self._ended.wait(BEAT):
            try:
                self._beat()
            except OSError:  # a hiccup of the network; the next beat may pass
                continue


def _me() -> dict[str, Any]:
    since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": since}


def _parsed(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _sentence(folder: os.PathLike[str], owner: dict[str, Any], mend: str) -> str:
    who = f"process {owner['pid']} on {owner['host']} since {owner['since']}" if "pid" in owner else "another process"
    return f"{os.fspath(folder)} is being written by {who}{mend}"
