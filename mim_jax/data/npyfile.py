"""`.npy` files from anywhere: the header is compared with the bytes behind it before anything is allocated."""

from __future__ import annotations

import io
import math
import os
from typing import Any

import numpy as np
from numpy.lib import format as npy

from mim_jax.errors import DataError

MAGIC = b"\x93NUMPY"
MEND = "save its numbers anew by numpy.save"
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def load(file: bytes | str | os.PathLike[str], mapped: bool = False) -> np.ndarray:
    """The array of a .npy file, or of its bytes. mapped: read from disk as it is needed; needs a path.

    Raises:
        DataError: not such a file, Python objects, or fewer bytes than its header promises. Names no file.
    """
    try:
        if isinstance(file, bytes):
            _check(io.BytesIO(file), len(file))
            return np.load(io.BytesIO(file), allow_pickle=False)
        with open(file, "rb") as opened:
            _check(opened, os.fstat(opened.fileno()).st_size)
        return np.load(file, mmap_mode="r" if mapped else None, allow_pickle=False)
    except DataError:
        raise
    except Exception as error:  # a header is Python's notation of a dictionary, with as many ways to be wrong
        raise DataError(f"is not a whole .npy file: {error}; {MEND}") from error


def _check(file: Any, size: int) -> None:
    version = npy.read_magic(file)
    if version not in _HEADERS:
        raise DataError(f"is not a whole .npy file: its version {version} is not one that plain arrays have; {MEND}")
    shape, _, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise DataError(f"is not a whole .npy file: it holds Python objects, which are never loaded; {MEND}")
    if any(length < 0 for length in shape):
        raise DataError(f"is not a whole .npy file: its shape is {shape}; {MEND}")
    needed, there = math.prod(shape) * dtype.itemsize, size - file.tell()
    if needed > there:
        raise DataError(f"is not a whole .npy file: {shape} {dtype} take {needed} bytes, but it holds {there}; {MEND}")
