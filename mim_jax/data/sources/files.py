"""Finding and reading files."""

from __future__ import annotations

import glob
import os
import threading
import weakref

from mim_jax.errors import DataError, nearest

IMAGE_EXTENSIONS = (
    *("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"),
    *("ppm", "pgm", "jp2", "avif", "npy"),
)


def expand(pattern: str, extension: str, spec: str) -> tuple[str, ...]:
    """Files of a path, glob or folder (then all `*.extension` in it), sorted. Raises DataError if there are none."""
    path = os.path.expanduser(pattern)
    if os.path.isdir(path):
        found = glob.glob(os.path.join(glob.escape(path), f"*.{extension}"))
        if not found:
            raise DataError(f"data source '{spec}': folder '{path}' holds no .{extension} files")
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
        raise DataError(f"data source '{spec}': '{path}' is a file, not a folder")
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
            return f"{sentence}{nearest(part, names)}"
        there = step or os.sep
    return f"no file matches '{path}'"


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
        """`size` bytes at `offset`. Raises OSError, also where the file ends before that."""
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


def _close(handles: dict[str, int]) -> None:
    for handle in handles.values():
        os.close(handle)
