"""Decoded records: a source, the rules for decoding, and a cache in memory or on disk."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from jaxtyping import Int64, Shaped

from mim_jax.data.decode import Picture, decode, pixels
from mim_jax.data.disk import DiskCache, open_cache
from mim_jax.data.jpeg import Pending, pending
from mim_jax.data.kept import AUTO_BYTES, Kept, size_of
from mim_jax.data.settings import Settings
from mim_jax.data.sources import Source
from mim_jax.data.sources.base import check_label
from mim_jax.errors import DataError


class Records:
    """Record i as a picture and its label; safe to use from many threads and to pickle."""

    def __init__(self, source: Source, settings: Settings):
        self.source = source
        self.channels = settings.channels
        self._max_pixels = settings.max_pixels
        self._fast = settings.decode == "fast" and source.dtype == np.uint8
        budgets: dict[str, int | float] = {"auto": AUTO_BYTES // max(1, settings.workers), "memory": math.inf}
        self._kept = Kept(len(source), budgets.get(settings.cache, 0))
        self._disk: DiskCache | None = None
        if settings.cache == "disk":
            self._disk = open_cache(
                source,
                self._decoded,
                folder=settings.cache_dir,
                channels=self.channels,
                threads=settings.threads,
            )

    def __getitem__(self, i: int) -> tuple[Picture | Pending, int | None]:
        """Picture and label; with `data.decode = fast` a picture may be decoded later, by who knows its crops.

        Raises DataError naming source and record where they cannot be had.
        """
        found = (self._disk or self._kept).get(i)
        if found is not None:
            return found
        picture, label = self._read(i)
        size = picture.height * picture.width * self.channels if isinstance(picture, Pending) else size_of(picture)
        if self._kept.fits(size):
            if isinstance(picture, Pending):
                picture = picture.decode(picture.height)
            self._kept.put(i, picture, label)
        return picture, label

    def batch(
        self, indices: Int64[np.ndarray, " B"]
    ) -> tuple[Shaped[np.ndarray, "B H W C"], Int64[np.ndarray, " B"]] | None:
        """Pictures and labels (-1: none) of several records where a cache has them as one array."""
        return (self._disk or self._kept).batch(indices)

    def _decoded(self, i: int) -> tuple[Picture, int | None]:
        picture, label = self._read(i)
        return (picture.decode(picture.height) if isinstance(picture, Pending) else picture), label

    def _read(self, i: int) -> tuple[Picture | Pending, int | None]:
        source = self.source
        try:
            record = source[i]
            image = record["image"]
            later = pending(image, self.channels, partial(self._whole, i, image)) if self._fast else None
            if later is not None and later.height * later.width > self._max_pixels:
                later = None  # it is refused in the usual words
            picture: Picture | Pending = self._decode(image) if later is None else later
            if source.labelled:
                check_label(record["label"])
        except DataError as error:
            raise self._named(i, error) from error
        return picture, record["label"]

    def _whole(self, i: int, image: bytes | np.ndarray) -> np.ndarray:
        """The pixels of what the fast decoder did not like."""
        try:
            return pixels(self._decode(image))
        except DataError as error:
            raise self._named(i, error) from error

    def _decode(self, image: bytes | np.ndarray) -> Picture:
        return decode(image, channels=self.channels, dtype=self.source.dtype, max_pixels=self._max_pixels)

    def _named(self, i: int, error: DataError) -> DataError:
        return DataError(f"record {i} '{self.source.name(i)}' of data source '{self.source.spec}' {error}")
