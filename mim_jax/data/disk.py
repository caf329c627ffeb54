"""A disk cache of decoded pixels (`data.cache = disk`): one file for a source, memory-mapped.

The file is a header of fixed size (JSON: what it holds), a table (N, 5) of int64 (offset, height, width, label, whether
the label is there), and the pixels. It is written under another name and renamed when it is whole.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Int64, Shaped

from mim_jax.data.decode import Picture, pixels
from mim_jax.data.kept import NO_LABEL
from mim_jax.data.sources import Source
from mim_jax.errors import DataError
from mim_jax.replacing import replacing

log = logging.getLogger(__name__)
FORMAT = "mim_jax pixels 1"
HEADER = 4096
SAMPLE = 64  # records whose bytes go into the fingerprint
ABSENT = -1  # offset of a record that could not be read; the source is asked again for it
Read = Callable[[int], tuple[Picture, int | None]]


class DiskCache:
    """An opened cache; safe to use from many threads and to pickle."""

    def __init__(self, path: str, table: Int64[np.ndarray, "N 5"], channels: int, dtype: np.dtype):
        self._path, self._table, self._channels, self._dtype = path, table, channels, dtype
        sizes = table[:, 1:3]
        whole = bool((table[:, 0] != ABSENT).all() and (sizes == sizes[:1]).all())
        self._one_size = tuple(sizes[0].tolist()) if whole else None
        self._bytes = np.memmap(path, np.uint8, "r")

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_bytes": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _bytes=np.memmap(state["_path"], np.uint8, "r"))

    def get(self, i: int) -> tuple[Shaped[np.ndarray, "H W C"], int | None] | None:
        """Record i; None where it could not be read when the cache was made."""
        offset, height, width, label, labelled = self._table[i].tolist()
        if offset == ABSENT:
            return None
        size = height * width * self._channels * self._dtype.itemsize
        flat = np.asarray(self._bytes[offset : offset + size]).view(self._dtype)
        return flat.reshape(height, width, self._channels), label if labelled else None

    def batch(
        self, indices: Int64[np.ndarray, " B"]
    ) -> tuple[Shaped[np.ndarray, "B H W C"], Int64[np.ndarray, " B"]] | None:
        """Pictures and labels of several records, where all are of one size."""
        if self._one_size is None or not len(indices) or indices.min() < 0:
            return None
        shape = (len(self._table), *self._one_size, self._channels)
        block = np.asarray(self._bytes[int(self._table[0, 0]) :]).view(self._dtype).reshape(shape)
        return block[indices], self._table[indices, 3]


def open_cache(source: Source, read: Read, *, folder: str, channels: int, threads: int) -> DiskCache:
    """The cache of a source in `folder`; made first where there is none, which decodes every record once.

    read: record number -> picture and label. Raises DataError where the file is not whole, or is of other data.
    """
    folder = os.path.expanduser(folder)
    os.makedirs(folder, exist_ok=True)
    plain = re.sub(r"[^A-Za-z0-9]+", "-", source.spec).strip("-")[-60:]
    name = hashlib.sha256(f"{source.spec} {channels}".encode()).hexdigest()[:12]
    path = os.path.join(folder, f"{plain}-{name}.pixels")
    expected = {"format": FORMAT, "count": len(source), "channels": channels, "dtype": str(source.dtype)}
    expected["fingerprint"] = fingerprint(source)
    if not os.path.exists(path):
        log.info("decoding %d records of %s into %s", len(source), source.spec, path)
        _write(path, source, read, expected, threads)
    return _open(path, expected, source)


def fingerprint(source: Source) -> str:
    """Of the records: their number, the bytes of some of them, and all labels.

    Raises DataError at a record that has no readable label.
    """
    digest = hashlib.sha256(f"{len(source)} {source.dtype} {source.labelled}".encode())
    if source.labelled:
        digest.update(source.labels().tobytes())
    for i in np.unique(np.linspace(0, len(source) - 1, SAMPLE).astype(np.int64)).tolist():
        try:
            image = source[i]["image"]
        except DataError as error:
            image = str(error).encode()
        digest.update(image if isinstance(image, bytes) else np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()


def _write(path: str, source: Source, read: Read, header: dict[str, Any], threads: int) -> None:
    table = np.zeros((len(source), 5), np.int64)
    with replacing(path) as part, part.open("wb") as file:
        offset = HEADER + table.nbytes
        file.seek(offset)
        for i, found in enumerate(_all(len(source), read, threads)):
            if found is None:
                table[i, 0] = ABSENT
                continue
            array, label = pixels(found[0]), found[1]
            table[i] = offset, *array.shape[:2], NO_LABEL if label is None else label, label is not None
            file.write(np.ascontiguousarray(array).data)
            offset += array.nbytes
        file.seek(0)
        file.write(json.dumps({**header, "bytes": offset}).encode().ljust(HEADER))
        file.write(table.data)
        file.flush()
        os.fsync(file.fileno())


def _all(count: int, read: Read, threads: int) -> Iterator[tuple[Picture, int | None] | None]:
    """Every record in order, decoded by `threads`, a bounded number ahead; None for the bad ones."""

    def one(i: int) -> tuple[Picture, int | None] | None:
        try:
            return read(i)
        except DataError:
            return None  # whoever asks for it hears the reason

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        step = 16 * threads
        for first in range(0, count, step):
            yield from pool.map(one, range(first, min(first + step, count)))


def _open(path: str, expected: dict[str, Any], source: Source) -> DiskCache:
    with open(path, "rb") as file:
        try:
            header = json.loads(file.read(HEADER))
        except (ValueError, RecursionError):
            header = {}
        table = file.read(expected["count"] * 5 * 8)
    size = os.path.getsize(path)
    if not isinstance(header, dict) or header.get("format") != FORMAT or size != header.get("bytes"):
        raise DataError(f"data.cache: '{path}' is not a whole cache of pixels; delete it, and it is made anew")
    changed = [key for key, value in expected.items() if header.get(key) != value]
    if changed:
        raise DataError(
            f"data.cache: '{path}' holds other records than data source '{source.spec}' has now ({changed[0]} "
            "differs); delete it, and it is made anew"
        )
    places, dtype = np.frombuffer(table, np.int64).reshape(-1, 5), np.dtype(expected["dtype"])
    if not _within(places, expected["channels"] * dtype.itemsize, size):
        raise DataError(f"data.cache: '{path}' is damaged; delete it, and it is made anew")
    return DiskCache(path, places, expected["channels"], dtype)


def _within(table: Int64[np.ndarray, "N 5"], pixel: int, size: int) -> bool:
    """Whether every record lies behind the table and inside of the file."""
    offset, height, width = table[table[:, 0] != ABSENT, :3].T
    if not len(offset):
        return True
    sides = min(height.min(), width.min()) > 0 and max(height.max(), width.max()) < 1 << 24
    return bool(sides and offset.min() >= HEADER + table.nbytes and (offset <= size - height * width * pixel).all())
