"""Data that lie on other machines: `https://`, and what fsspec opens (`gs://`, `s3://`, ...; `pip install gcsfs`).

A shard is fetched whole, once, into a folder of this machine, and read at random there; images of a folder are fetched
one by one. Everything that goes over the network is done by `mim_jax.data.retry.retried`.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import urllib.request
from collections.abc import Iterator
from typing import Any

from mim_jax.data.retry import retried
from mim_jax.errors import DataError
from mim_jax.replacing import replacing

SECONDS = 60  # without a byte, after which a connection is given up
PIECE = 1 << 20
_REMOTE = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def is_remote(path: str) -> bool:
    """Whether `path` is an address, such as gs://bucket/data/train-*.tar."""
    return bool(_REMOTE.match(path))


def fetched(pattern: str, spec: str) -> tuple[str, ...]:
    """Local copies of the files of an address, sorted; what was fetched before is not fetched again.

    pattern: of fsspec's file systems a path with wildcards; anywhere a path with numbered parts, `{000..127}`.

    Raises:
        DataError: nothing there, or it cannot be read.
    """
    try:
        addresses = [each for one in numbered(pattern) for each in _matching(one)]
        if not addresses:
            raise DataError(f"no file matches '{pattern}'; correct the address")
        return tuple(fetch(address) for address in sorted(addresses))
    except DataError as error:
        raise DataError(f"data source '{spec}': {error}") from error


def fetch(address: str, folder: str | None = None) -> str:
    """The path of a local copy; made where there is none, under another name until it is whole. Raises DataError."""
    folder = folder or cache_folder()
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", address.rpartition("/")[2]).lstrip(".")[-80:]
    path = os.path.join(folder, f"{hashlib.sha256(address.encode()).hexdigest()[:16]}-{plain}")
    if os.path.exists(path):
        return path
    os.makedirs(folder, exist_ok=True)
    with replacing(path) as part:

        def copy() -> None:
            with open(part, "wb") as file:
                for piece in _pieces(address):
                    file.write(piece)

        retried(copy, address)
    return path


def read(address: str, most: int) -> bytes:
    """All bytes of a file of at most `most` bytes. Raises DataError."""

    def work() -> bytes:
        found = bytearray()
        for piece in _pieces(address):
            found += piece
            if len(found) > most:
                raise DataError(f"'{address}' takes more than {most} bytes; shrink or remove it")
        return bytes(found)

    return retried(work, address)


def below(root: str) -> list[str]:
    """Paths of all files below an address, relative to it. Raises DataError."""
    if root.startswith(("http://", "https://")):
        raise DataError(
            f"'{root}': a web server does not say which files it has; pack them into shards (wds:, parquet:)"
        )
    system, path = _system(root)
    found = retried(lambda: system.find(path), root)
    return [name[len(path.rstrip("/")) :].lstrip("/") for name in found]


def cache_folder() -> str:
    """Where copies are kept: $MIM_JAX_DATA, else mim_jax/data in the user's cache."""
    usual = os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "mim_jax", "data")
    return os.path.expanduser(os.environ.get("MIM_JAX_DATA", usual))


def numbered(pattern: str) -> list[str]:
    """`x-{00..02}.tar` -> x-00.tar, x-01.tar, x-02.tar; without such a part the pattern itself."""
    found = _RANGE.search(pattern)
    if not found:
        return [pattern]
    first, last = found.groups()
    if not int(first) <= int(last) < int(first) + 1_000_000:
        raise DataError(f"'{pattern}': {found[0]} is not a range from a lower to a higher number")
    names = (f"{i:0{len(first)}d}" for i in range(int(first), int(last) + 1))
    return [each for name in names for each in numbered(pattern[: found.start()] + name + pattern[found.end() :])]


def _matching(address: str) -> list[str]:
    if not any(sign in address for sign in "*?["):
        return [address]
    if address.startswith(("http://", "https://")):
        raise DataError(f"'{address}': a web server does not say which files it has; number them: x-{{000..127}}.tar")
    system, path = _system(address)
    folder, _, name = path.rpartition("/")
    if any(sign in folder for sign in "*?["):
        found = retried(lambda: system.glob(path), address)
    else:
        there = retried(lambda: system.ls(folder, detail=False, refresh=True), address)
        found = [each for each in there if fnmatch.fnmatch(each.rpartition("/")[2], name)]
    return [system.unstrip_protocol(each) for each in found]


def _pieces(address: str) -> Iterator[bytes]:
    """The bytes of a file; OSError where fewer come than were promised."""
    if address.startswith(("http://", "https://")):
        yield from _from_web(address)
        return
    system, path = _system(address)
    size, done = system.size(path), 0
    with system.open(path, "rb") as file:
        while piece := file.read(PIECE):
            done += len(piece)
            yield piece
    if size is not None and done != size:
        raise OSError(f"{done} of {size} bytes came")


def _from_web(address: str) -> Iterator[bytes]:
    request = urllib.request.Request(address, headers={"User-Agent": "mim_jax", "Accept-Encoding": "identity"})
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310  http and https alone come here
        promised, done = answer.headers.get("Content-Length"), 0
        while piece := answer.read(PIECE):
            done += len(piece)
            yield piece
    if promised is not None and done != int(promised):
        raise OSError(f"{done} of {promised} bytes came")


def _system(address: str) -> tuple[Any, str]:
    """fsspec's file system and the path in it. Raises DataError where the package for it is not installed."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise DataError(
            f"'{address}' cannot be opened: {error}; install what it needs, or correct the address"
        ) from error
