"""Decoded records: a source, the rules for decoding, and a memory for small data sets."""

from __future__ import annotations

import numpy as np

from mim_jax.data.decode import Picture, decode, height_width
from mim_jax.data.settings import Settings
from mim_jax.data.sources import Source
from mim_jax.errors import DataError

# A data set whose decoded pixels take less than this is decoded once and kept: of a small image, decoding is most of
# the work.
MEMORY_BYTES = 1 << 30


class Records:
    """Record i as a picture and its label; safe to use from many threads and to pickle."""

    def __init__(self, source: Source, settings: Settings):
        self.source = source
        self.channels = settings.channels
        self._max_pixels = settings.max_pixels
        self._budget = MEMORY_BYTES // max(1, settings.workers)
        self._kept: dict[int, tuple[Picture, int | None]] = {}
        self._fits: bool | None = None  # known after the first record

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_kept": {}, "_fits": None}

    def __getitem__(self, i: int) -> tuple[Picture, int | None]:
        """Picture and label. Raises DataError naming source and record where they cannot be had."""
        found = self._kept.get(i)
        if found is None:
            found = self._read(i)
            size = _bytes(found[0])
            if self._fits is None:
                self._fits = size * len(self.source) <= self._budget
            if self._fits:
                # The estimate rests on one image; sizes may differ, so what is really held counts too.
                self._budget -= size
                self._fits = self._budget > 0
                self._kept[i] = found
        return found

    def _read(self, i: int) -> tuple[Picture, int | None]:
        source = self.source
        try:
            record = source[i]
            picture = decode(record["image"], channels=self.channels, dtype=source.dtype, max_pixels=self._max_pixels)
            if source.labelled and record["label"] is None:
                raise DataError("has no label, though others have one")
        except DataError as error:
            raise DataError(f"record {i} '{source.name(i)}' of data source '{source.spec}' {error}") from error
        return picture, record["label"]


def _bytes(picture: Picture) -> int:
    if isinstance(picture, np.ndarray):
        return picture.nbytes
    height, width = height_width(picture)
    return height * width * (1 if picture.mode == "L" else 4)  # Pillow pads RGB to four bytes
