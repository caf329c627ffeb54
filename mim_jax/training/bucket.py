"""Run directories in a bucket: arrays go there directly, small files through a folder on the host's own disk.

Checkpoints are written to the bucket by Orbax, every process its own share. Everything else that a run leaves (config,
log, pictures, results) is appended to and replaced, which buckets do not allow, so it is kept in a local folder and
copied: by process 0, before every checkpoint, so that what is logged before a checkpoint is never lost with the host.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import jax
from etils import epath

from mim_jax.errors import ConfigError
from mim_jax.replacing import WRITING, replacing
from mim_jax.training.lock import FILE as LOCK
from mim_jax.training.lock import is_held

HOME = ".home"  # in the local folder: the address whose files it holds
LARGE = ("checkpoints", "frozen", "variables")  # folders written by Orbax at the address itself
_sent: dict[str, dict[str, tuple[int, int]]] = {}  # per local folder: what was copied, by size and time of change
_one_at_a_time = threading.Lock()


def is_remote(address: str | os.PathLike[str]) -> bool:
    """Whether it is an address such as gs://bucket/runs/a."""
    return "://" in os.fspath(address)


def path_of(address: str | os.PathLike[str]) -> epath.Path:
    """The address as a path; file:///... is the local one."""
    text = os.fspath(address)
    return epath.Path(text.removeprefix("file://") if text.startswith("file://") else text)


@contextlib.contextmanager
def opened(address: str | os.PathLike[str], *, writer: bool = False) -> Iterator[Path]:
    """The local folder of a run directory; what has changed in it is at the address when this ends, however it ends.

    writer: for the run itself, whose folder no second run of this host may fill anew.

    Raises:
        ConfigError: the address cannot be read, or a run of this host is writing there.
    """
    folder = local_folder(address, writer=writer)
    try:
        yield folder
    finally:
        push(folder)


def local_folder(address: str | os.PathLike[str], *, writer: bool = False) -> Path:
    """Where the small files of a run directory are: the directory itself, or for an address a folder of this host.

    It is in $MIM_JAX_RUNS, by default ~/.cache/mim_jax/runs, and is filled from the address.

    Raises:
        ConfigError: as `opened`.
    """
    if not is_remote(address):
        return Path(address)
    text = os.fspath(address).rstrip("/")
    root = Path(os.environ.get("MIM_JAX_RUNS", "") or Path.home() / ".cache" / "mim_jax" / "runs")
    kind = f"process-{jax.process_index()}" if writer else "reader"
    folder = root / f"{text.rpartition('/')[2]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}-{kind}"
    folder.mkdir(parents=True, exist_ok=True)
    if writer and is_held(folder):
        raise ConfigError(
            f"{text} is being written by a run on this host; wait for it, stop it, or give another address"
        )
    try:
        pull(text, folder)
    except Exception as error:  # each kind of bucket has errors of its own
        raise ConfigError(
            f"{text} cannot be read ({type(error).__name__}: {str(error)[:200]}); look at the address and the "
            "rights of this machine, and install gcsfs for gs://, s3fs for s3://"
        ) from error
    (folder / HOME).write_text(text)
    return folder


def join(address: str | os.PathLike[str], name: str) -> str | Path:
    """A folder below a run directory or address."""
    return f"{os.fspath(address).rstrip('/')}/{name}" if is_remote(address) else Path(address) / name


def home(folder: str | os.PathLike[str]) -> epath.Path:
    """Where the checkpoints of a local folder are: at the address it belongs to, or in the folder itself."""
    note = Path(folder) / HOME
    return path_of(note.read_text()) if note.exists() else epath.Path(folder)


def places(folder: Path) -> list[os.PathLike[str]]:
    """The folder and, where it belongs to an address, that."""
    return [folder, home(folder)] if (folder / HOME).exists() else [folder]


def pull(address: str, folder: Path) -> None:
    """Makes the small files of `folder` those of the address; what the address does not have is removed."""
    source, found = path_of(address), set()
    for path in _files(source):
        name = str(path.relative_to(source))
        found.add(name)
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary:
            temporary.write_bytes(path.read_bytes())
    for path in [p for p in folder.rglob("*") if p.is_file() and p.name not in (HOME, LOCK)]:
        if str(path.relative_to(folder)) not in found:
            path.unlink()
    _sent[str(folder)] = {name: _stamp(folder / name) for name in found}


def push(folder: str | os.PathLike[str]) -> None:
    """Copies the small files that have changed to the address, from process 0; nothing for a folder without one."""
    folder = Path(folder)
    if jax.process_index() != 0 or not (folder / HOME).exists():
        return
    target = home(folder)
    with _one_at_a_time:
        sent = _sent.setdefault(str(folder), {})
        now = {str(path.relative_to(folder)): path for path in folder.rglob("*") if _counts(path, folder)}
        for name, path in now.items():
            stamp = _stamp(path)
            if sent.get(name) != stamp:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                (target / name).write_bytes(path.read_bytes())
                sent[name] = stamp
        for name in [name for name in sent if name not in now]:
            (target / name).unlink(missing_ok=True)
            del sent[name]


def _files(folder: epath.Path) -> list[epath.Path]:
    """All small files below an address; none where there is nothing yet."""
    if not folder.exists():
        return []
    found: list[epath.Path] = []
    for path in folder.iterdir():
        if path.name in (*LARGE, LOCK) or path.name.endswith(WRITING):
            continue
        found += _files(path) if path.is_dir() else [path]
    return found


def _counts(path: Path, folder: Path) -> bool:
    large = any(part in LARGE for part in path.relative_to(folder).parts)
    return path.is_file() and path.name not in (HOME, LOCK) and not large and not path.name.endswith(WRITING)


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
