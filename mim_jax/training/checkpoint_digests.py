"""Whether a checkpoint is still what was written: size and SHA-256 of every file, kept beside them.

Orbax's format has checksums for its index but none for the arrays: a flipped bit there is read back as another number,
and nothing says so. The digests are taken when a checkpoint has just been finished, from files still in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from typing import Any

from etils import epath

FILE = "digests.json"


def write_digests(folder: epath.Path) -> None:
    """Writes `digests.json` into a checkpoint whose items are complete, whole or not at all."""
    _write(folder, {name: _digest(folder / name) for name in _names(folder) if "/" in name})


def add_digests(folder: epath.Path) -> None:
    """Adds those of the few files that Orbax writes last, when a checkpoint already has its name."""
    files = json.loads((folder / FILE).read_text())["files"]
    _write(folder, files | {name: _digest(folder / name) for name in _names(folder) if name not in files})


def _write(folder: epath.Path, files: dict[str, list[Any]]) -> None:
    temporary = folder / (FILE + ".writing")
    temporary.write_text(json.dumps({"files": files}, indent=0))
    temporary.replace(folder / FILE)


def fault(folder: epath.Path, items: Iterable[str] | None = None) -> str:
    """What is wrong with a checkpoint, '' if nothing is, or if it has no digests to say so.

    items: look at these alone, not at all of it.
    """
    path = folder / FILE
    if not path.exists():
        return ""
    try:
        kept = json.loads(path.read_text())
        files = {str(name): list(entry) for name, entry in kept["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{FILE} is not readable"
    wanted = None if items is None else tuple(f"{item}/" for item in items)
    for name, entry in sorted(files.items()):
        if wanted is not None and not name.startswith(wanted):
            continue
        if name.startswith("/") or ".." in name.split("/"):  # a stranger's checkpoint may name anything
            return f"{FILE} names a file outside of it"
        if not (folder / name).exists():
            return f"the file {name} is missing"
        if _is_local(folder) and not os.path.isfile(folder / name):
            return f"{name} is not a file"
        found = _digest(folder / name, known=entry)
        if found[0] != entry[0]:
            return f"the file {name} has {found[0]:,} bytes, not {entry[0]:,}"
        if found[1] != entry[1]:
            return f"the file {name} has other content than was written"
    return ""


def _digest(path: epath.Path, known: list[Any] | None = None) -> list[Any]:
    """[bytes, SHA-256]; of a bucket's object the size alone, since a bucket keeps checksums of its own and reading
    everything again would take long."""
    size = path.stat().length
    if not _is_local(path) or (known is not None and (size != known[0] or known[1] is None)):
        return [size, known[1] if known else None]
    with open(path, "rb") as file:
        return [size, hashlib.file_digest(file, "sha256").hexdigest()]


def _names(folder: epath.Path) -> list[str]:
    """Paths of all files in a folder, relative to it."""
    found: list[str] = []
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        for path in here.iterdir():
            if path.is_dir():
                waiting.append(path)
            elif path.name not in (FILE, FILE + ".writing"):
                found.append(os.fspath(path)[len(os.fspath(folder)) :].lstrip("/"))
    return sorted(found)


def _is_local(path: epath.Path) -> bool:
    return "://" not in os.fspath(path)
