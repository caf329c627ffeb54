"""Finding and reading files."""

from __future__ import annotations

import errno
import glob
import os
import stat
import threading
import weakref

from mim_jax.data.remote import fetched, is_remote
from mim_jax.data.retry import retried
from mim_jax.errors import DataError, nearest

IMAGE_EXTENSIONS = (
    *("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"),
    *("ppm", "pgm", "jp2", "avif", "npy"),
)
LARGEST = 1 << 29  # bytes of one encoded image
# What a network disk, or a bucket that is mounted as one, says while it is away.
HICCUPS = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.ECONNRESET, errno.EHOSTDOWN, errno.ENETDOWN)


def expand(pattern: str, extension: str, spec: str) -> tuple[str, ...]:
    """Files of a path, glob or folder (then all `*.extension` in it), sorted; of an address local copies.

    Raises:
        DataError: there are none, or an address that cannot be read.
    """
    if is_remote(pattern):
        return fetched(pattern, spec)
    path = os.path.expanduser(pattern)
    if os.path.isdir(path):
        found = glob.glob(os.path.join(glob.escape(path), f"*.{extension}"))
        if not found:
            raise DataError(
                f"data source '{spec}': folder '{path}' holds no .{extension} files; name the files, or another folder"
            )
    elif os.path.isfile(path):
        found = [path]
    else:
        found = [p for p in glob.glob(path, recursive=True) if os.path.isfile(p)]
        if not found:
            raise DataError(f"data source '{spec}': {_what_is_missing(path)}")
    return tuple(sorted(found))


def require_folder(path: str, spec: str) -> str:
    """`path`, expanded, if it is a folder; else DataError with the nearest that is there."""
    path = os.path.expanduser(path)
    if os.path.isfile(path):
        raise DataError(f"data source '{spec}': '{path}' is a file, not a folder; name the folder that it is in")
    if not os.path.isdir(path):
        raise DataError(f"data source '{spec}': {_what_is_missing(path)}")
    return path


def _what_is_missing(path: str) -> str:
    """Names the first part of the path that is not there, and what stands in its place."""
    parts = os.path.normpath(path).split(os.sep)
    there = os.sep if path.startswith(os.sep) else ""
    for i, part in enumerate(parts):
        step = os.path.join(there, part) if there else part
        if part and not os.path.exists(step):
            last = i == len(parts) - 1
            if glob.has_magic(part):
                sentence = f"no file matches '{path}'"
            else:
                sentence = f"'{path}' does not exist" if last else f"'{path}' does not exist: there is no '{step}'"
            folder = there or "."
            names = [n for n in os.listdir(folder) if not n.startswith(".")] if os.path.isdir(folder) else []
            return f"{sentence}{nearest(part, names) or '; name another'}"
        there = step or os.sep
    return f"no file matches '{path}'; name files that are there"


class Reader:
    """Reads parts of many files from many threads; keeps up to `limit` of them open, one set per process."""

    def __init__(self, limit: int = 128):
        self._limit = limit
        self._open: dict[str, int] = {}
        self._lock = threading.Lock()
        weakref.finalize(self, _close, self._open)

    def __getstate__(self) -> dict:
        return {"limit": self._limit}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state["limit"])  # type: ignore[misc]

    def read(self, path: str, offset: int, size: int) -> bytes:
        """`size` bytes at `offset`. Raises OSError, also where the file ends before that; DataError: tried often."""
        try:
            return self._read(path, offset, size)
        except OSError as error:
            if error.errno not in HICCUPS:
                raise
        return retried(lambda: _afresh(path, offset, size), path)

    def _read(self, path: str, offset: int, size: int) -> bytes:
        with self._lock:
            handle = self._open.get(path)
            if handle is None and len(self._open) < self._limit:
                handle = self._open[path] = os.open(path, os.O_RDONLY)
        if handle is not None:
            data = os.pread(handle, size, offset)
        else:  # more files than may stay open
            with open(path, "rb") as file:
                file.seek(offset)
                data = file.read(size)
        if len(data) != size:
            raise OSError(f"{path} ends inside a record")
        return data


def _afresh(path: str, offset: int, size: int) -> bytes:
    """As `Reader.read`, by a new handle: one to a network disk may have gone stale."""
    with open(path, "rb") as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) != size:
        raise OSError(f"{path} ends inside a record")
    return data


def _close(handles: dict[str, int]) -> None:
    for handle in handles.values():
        os.close(handle)


def read_image(path: str) -> bytes:
    """A whole file, where it is an ordinary one of at most `LARGEST` bytes; a pipe would be waited for without end.

    Raises:
        DataError: anything else; names no file.
    """
    try:
        return _ordinary(path)
    except OSError as error:
        if error.errno in HICCUPS:
            return retried(lambda: _ordinary(path), path)
        raise DataError(f"cannot be read: {error.strerror or error}; make it readable, or remove it") from error
    except ValueError as error:  # a zero byte in the name
        raise DataError(f"cannot be read: {error}; correct its name") from error


def _ordinary(path: str) -> bytes:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    with open(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise DataError("is not an ordinary file; remove it")
        check_bytes(found.st_size)
        return file.read(LARGEST)


def check_bytes(size: int) -> None:
    """Raises DataError where so many bytes cannot be one image."""
    if size > LARGEST:
        raise DataError(f"takes {size} bytes, more than the {LARGEST} that one encoded image may; shrink or remove it")
