"""Decoded records in memory: small ones of one size as one array, of which a batch can be taken at once."""

from __future__ import annotations

import threading

import numpy as np
from jaxtyping import Int64, Shaped

from mim_jax.data.decode import Picture, height_width, pixels
from mim_jax.data.small import LARGEST

# A data set whose decoded pixels take less than this is decoded once and kept: of a small image, decoding is most of
# the work.
AUTO_BYTES = 1 << 30
NO_LABEL = -1


class Kept:
    """A memory of pictures up to a size in bytes; safe to use from many threads and to pickle (empty)."""

    def __init__(self, count: int, budget: int | float):
        self._count, self._budget = count, budget
        self._clear()

    def _clear(self) -> None:
        self._lock = threading.Lock()
        self._left = self._budget
        self._fits: bool | None = None if self._budget else False  # known after the first record
        self._pictures: dict[int, tuple[Picture, int | None]] = {}
        self._block: np.ndarray | None = None
        self._labels = np.full(self._count if self._budget else 0, NO_LABEL, np.int64)
        self._there = np.zeros(len(self._labels), bool)

    def __getstate__(self) -> dict:
        return {"count": self._count, "budget": self._budget}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state["count"], state["budget"])  # type: ignore[misc]

    def fits(self, size: int) -> bool:
        """Whether a picture of `size` bytes is to be kept; the first one decides for all."""
        if self._fits is None:
            self._fits = size * self._count <= self._budget
        return self._fits

    def get(self, i: int) -> tuple[Picture, int | None] | None:
        """Record i where it is here."""
        if self._block is not None and self._there[i]:
            label = int(self._labels[i])
            return self._block[i], None if label == NO_LABEL else label
        return self._pictures.get(i)

    def put(self, i: int, picture: Picture, label: int | None) -> None:
        """Keeps a record; it is the caller who asked `fits`."""
        with self._lock:
            # The estimate rests on one image; sizes may differ, so what is really held counts too.
            self._left -= size_of(picture)
            self._fits = self._left > 0
            if max(height_width(picture)) <= LARGEST and (self._block is None or self._of_block(picture)):
                array = pixels(picture)
                if self._block is None:
                    self._block = np.zeros((self._count, *array.shape), array.dtype)
                self._block[i] = array
                self._labels[i] = NO_LABEL if label is None else label
                self._there[i] = True  # last: another thread may be reading
            else:
                self._pictures[i] = picture, label

    def _of_block(self, picture: Picture) -> bool:
        assert self._block is not None
        array = pixels(picture)
        return array.shape == self._block.shape[1:] and array.dtype == self._block.dtype

    def batch(
        self, indices: Int64[np.ndarray, " B"]
    ) -> tuple[Shaped[np.ndarray, "B H W C"], Int64[np.ndarray, " B"]] | None:
        """Pictures and labels (-1: none) of several records, where all of them are here and of one small size."""
        if self._block is None or not len(indices) or indices.min() < 0 or not self._there[indices].all():
            return None
        return self._block[indices], self._labels[indices]


def size_of(picture: Picture) -> int:
    """Bytes that a picture takes in memory."""
    if isinstance(picture, np.ndarray):
        return picture.nbytes
    height, width = height_width(picture)
    return height * width * (1 if picture.mode == "L" else 4)  # Pillow pads RGB to four bytes
