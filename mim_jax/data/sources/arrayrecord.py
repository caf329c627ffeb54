"""`arrayrecord:GLOB`: records in our own simple layout, written by `mim_jax.data.convert`.

One record is: 4 bytes, the length of the header (little-endian); the header, JSON in UTF-8 with `name`, `label`
(whole number or null) and, for decoded pixels, `dtype` and `shape`; then the payload, an encoded image file or the
pixels in C order, little-endian.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from mim_jax.data.sources.base import Record, Source, Spec
from mim_jax.data.sources.files import expand
from mim_jax.errors import DataError

DTYPES = ("uint8", "uint16", "float32")  # of pixels
_LENGTH = struct.Struct("<I")


def pack(record: Record) -> bytes:
    """A record as bytes."""
    header: dict[str, Any] = {"name": record["name"], "label": record["label"]}
    image = record["image"]
    if isinstance(image, np.ndarray):
        image = np.ascontiguousarray(image, image.dtype.newbyteorder("<"))
        header |= {"dtype": image.dtype.name, "shape": image.shape}
        image = image.tobytes()
    text = json.dumps(header).encode()
    return _LENGTH.pack(len(text)) + text + image


def unpack(data: bytes) -> Record:
    """The record that `pack` wrote. Raises DataError where `data` has another layout."""
    try:
        (length,) = _LENGTH.unpack_from(data)
        header = json.loads(data[4 : 4 + length])
        name, label = header["name"], header["label"]
        image: bytes | np.ndarray = data[4 + length :]
        if not isinstance(name, str) or not (label is None or type(label) is int):
            raise TypeError("name or label")
        if "dtype" in header:
            if header["dtype"] not in DTYPES or any(length < 0 for length in header["shape"]):
                raise TypeError("dtype or shape")
            dtype = np.dtype(header["dtype"])
            image = np.frombuffer(image, dtype.newbyteorder("<")).reshape(header["shape"]).astype(dtype, copy=False)
    except (struct.error, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            "is not in the layout that mim_jax.data.convert writes; write it by `mim-jax data convert`"
        ) from error
    return {"image": image, "label": label, "name": name}


class ArrayRecord(Source):
    """Records of array_record files, in the order of the files' names."""

    def __init__(self, paths: tuple[str, ...], spec: Spec):
        from array_record.python import array_record_data_source

        self.paths = paths
        open_files = array_record_data_source.ArrayRecordDataSource
        try:
            self._records = open_files(list(paths))
            length = len(self._records)
        except (RuntimeError, ValueError, OSError) as error:
            which = _unreadable(open_files, paths)
            reason = " ".join(str(error).split())
            raise DataError(
                f"data source '{spec.text}': '{which}' is not readable as array_record: {reason}; "
                "write it anew by `mim-jax data convert`"
            ) from error
        self.dtype = spec.depth()
        if length:
            first = self._read(0, f"data source '{spec.text}': the first record of '{paths[0]}' ")
            self.labelled = first["label"] is not None
            if isinstance(first["image"], np.ndarray):
                self.dtype = first["image"].dtype

    def _read(self, i: int, sentence: str = "") -> Record:
        try:
            return unpack(self._records[i])
        except DataError as error:
            raise DataError(f"{sentence}{error}") from error
        except (RuntimeError, ValueError, OSError) as error:
            raise DataError(f"{sentence}cannot be read: {error}; write its file anew") from error

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> Record:
        return self._read(self.at(i))

    def name(self, i: int) -> str:
        try:
            return self[i]["name"]
        except DataError:
            where = os.path.basename(self.paths[0]) + (" ..." if len(self.paths) > 1 else "")
            return f"{where} record {i}"


def _unreadable(open_files: Callable[[list[str]], Any], paths: tuple[str, ...]) -> str:
    """The first of several files that cannot be opened by itself."""
    for path in paths:
        try:
            len(open_files([path]))
        except (RuntimeError, ValueError, OSError):
            return path
    return paths[0]


def open_spec(spec: Spec) -> Source:
    """Opens `arrayrecord:GLOB[?depth=16]`."""
    spec.check_options(("depth",))
    return ArrayRecord(expand(spec.target, "arrayrecord", spec.text), spec)
