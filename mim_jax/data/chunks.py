"""The unit of work of the pipelines: a few neighbouring records of a batch, read, decoded, cropped and stacked.

A chunk is large enough that the machinery around it costs little beside tiny images, and small enough that threads
and worker processes share the work on a batch of large ones. How batches are cut into chunks changes nothing in them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mim_jax.data import device, small
from mim_jax.data.decode import height_width, pixels
from mim_jax.data.jpeg import Pending
from mim_jax.data.maps import Maps
from mim_jax.data.order import Order
from mim_jax.data.records import Records
from mim_jax.data.views import View, look
from mim_jax.errors import DataError

CHUNK_BYTES = 1 << 19
WORKER_CHUNK_BYTES = 1 << 22  # handing a chunk over to another process costs as much as an image's crop
MOST_CHUNKS = 64  # of a batch; grain looks over all that are ready each time it takes one
REPLACEMENTS = 20  # tries to find a good record in place of a bad one

Chunk = dict[str, Any]


class ChunkLoader:
    """Chunk number -> chunk; the chunks of step s are those from s * `per_batch` on.

    A chunk holds one array per view and per map, `index`, `label` where the source has labels, and `valid`; and two
    lists for the main process: `bad`, (index, sentence) of records that could not be read, and `fatal`, sentences at
    which to stop (then there are no arrays).
    """

    def __init__(
        self,
        records: Records,
        views: Sequence[View],
        names: Sequence[str],
        order: Order,
        seed: int,
        stop: bool,
        on_device: bool = False,
        workers: int = 0,
        maps: Maps | None = None,
    ):
        self.records, self.maps = records, maps
        self.views = dict(zip(names, views, strict=True))
        self.order = order
        self.seed = seed
        self.stop = stop
        self.channels = records.channels
        self._stored = self._stored_shape() if on_device else None
        count = sum(math.prod(view.shape(self.channels)) for view in views)
        most = WORKER_CHUNK_BYTES if workers else CHUNK_BYTES
        self.size = max(most // (count * records.source.dtype.itemsize), -(-order.local_size // MOST_CHUNKS))
        # Chunks go to the workers in turn, so those of a batch are of about one size.
        self.size = -(-order.local_size // -(-order.local_size // self.size))
        self.per_batch = -(-order.local_size // self.size)

    def __call__(self, number: int) -> Chunk:
        step, part = divmod(int(number), self.per_batch)
        epoch, indices = self.order.local(step)
        indices = indices[part * self.size : (part + 1) * self.size]
        if (at_once := self._at_once(indices, epoch)) is not None:
            return at_once
        chunk = self._empty(len(indices))
        for row, index in enumerate(indices.tolist()):
            if index >= 0:
                self._fill(chunk, row, index, epoch)
            if chunk["fatal"]:
                return {"bad": chunk["bad"], "fatal": chunk["fatal"]}
        return chunk

    def _stored_shape(self) -> tuple[int, ...]:
        """Of every image, where the device crops: that of the first one that can be read."""
        count, last = min(REPLACEMENTS, len(self.records.source)), None
        for i in range(count):
            try:
                return (*height_width(self.records[i][0]), self.channels)
            except DataError as error:
                last = error
        raise DataError(f"data source '{self.records.source.spec}': its first {count} records are all bad: {last}")

    def _at_once(self, indices: np.ndarray, epoch: int) -> Chunk | None:
        """The chunk by whole-batch arithmetic, where a cache holds its small images as one array."""
        if self._stored is not None or self.maps or (found := self.records.batch(indices)) is None:
            return None
        images, labels = found
        if not all(small.serves(view, images.shape[1], images.shape[2], images.dtype) for view in self.views.values()):
            return None
        chunk: Chunk = {name: small.crops(view, images, indices, self.seed, epoch) for name, view in self.views.items()}
        chunk |= {"index": indices.astype(np.int64), "valid": np.ones(len(indices), bool)}
        if self.records.source.labelled:
            chunk["label"] = labels.astype(np.int32)
        return chunk | {"bad": [], "fatal": []}

    def _empty(self, count: int) -> Chunk:
        dtype = self.records.source.dtype
        if self._stored is not None:
            chunk: Chunk = {device.STORED: np.zeros((count, *self._stored), dtype)}
            for name, view in self.views.items():
                shape = (count, *((view.count,) if view.count > 1 else ()), 5)
                chunk[name + device.SUFFIX] = np.zeros(shape, np.int32)
        else:
            chunk = {name: np.zeros((count, *v.shape(self.channels)), dtype) for name, v in self.views.items()}
        for name, shape in self.maps.shapes().items() if self.maps else ():
            chunk[name] = np.zeros((count, *shape), np.float32)
        chunk["index"] = np.full(count, -1, np.int64)
        chunk["valid"] = np.zeros(count, bool)
        if self.records.source.labelled:
            chunk["label"] = np.full(count, -1, np.int32)
        return chunk | {"bad": [], "fatal": []}

    def _fill(self, chunk: Chunk, row: int, index: int, epoch: int) -> None:
        """Puts record `index`, or the one that stands in for it, into one row; notes what was bad on the way."""
        candidate = index
        for attempt in range(REPLACEMENTS):
            try:
                label = self._put(chunk, row, candidate, index, epoch)
            except DataError as error:
                if self.stop:
                    chunk["fatal"].append(f"{error}, or set data.on_error=skip to leave bad records out")
                    return
                chunk["bad"].append((candidate, str(error)))
            else:
                chunk["index"][row] = candidate
                chunk["valid"][row] = True
                if "label" in chunk:
                    chunk["label"][row] = label
                return
            other = self.order.replacement(index, epoch, self.seed, attempt)
            if other is None:
                return
            candidate = other
        chunk["fatal"].append(
            f"{chunk['bad'][-1][1]}; the {REPLACEMENTS - 1} drawn in its place are bad too, so the data must be mended"
        )

    def _put(self, chunk: Chunk, row: int, candidate: int, index: int, epoch: int) -> int | None:
        """The images of record `candidate` with the draws of `index`, for which it may stand in; returns its label."""
        picture, label = self.records[candidate]
        views = tuple(self.views.values())
        if self._stored is None:
            if self.maps:
                size = height_width(picture)
                for name, values in self.maps.of(candidate, size, seed=self.seed, epoch=epoch, index=index).items():
                    chunk[name][row] = values
            images = look(views, picture, seed=self.seed, epoch=epoch, index=index)
            for name, image in zip(self.views, images, strict=True):
                chunk[name][row] = image
            return label
        if height_width(picture) != self._stored[:2]:
            height, width = height_width(picture)
            raise DataError(
                f"record {candidate} '{self.records.source.name(candidate)}' has {width} x {height} pixels, others "
                f"{self._stored[1]} x {self._stored[0]}; data.crop_on = 'device' needs images of one size; set it to "
                "'host'"
            )
        if isinstance(picture, Pending):
            picture = picture.decode(picture.height)
        chunk[device.STORED][row] = pixels(picture)
        for name, crops in zip(
            self.views, device.drawn(views, picture, seed=self.seed, epoch=epoch, index=index), strict=True
        ):
            chunk[name + device.SUFFIX][row] = crops
        return label


def join(chunks: Sequence[Chunk]) -> Chunk:
    """The chunks of one batch as one."""
    notes = {key: [note for chunk in chunks for note in chunk[key]] for key in ("bad", "fatal")}
    if notes["fatal"]:
        return notes
    arrays = [key for key in chunks[0] if key not in notes]
    # Always a copy: chunks from worker processes lie in shared memory that is given back.
    return {key: np.concatenate([chunk[key] for chunk in chunks]) for key in arrays} | notes
