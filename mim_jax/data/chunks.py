"""The unit of work of the pipelines: a few neighbouring records of a batch, read, decoded, cropped and stacked.

A chunk is large enough that the machinery around it costs little beside tiny images, and small enough that threads
and worker processes share the work on a batch of large ones. How batches are cut into chunks changes nothing in them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mim_jax.data.decode import Picture
from mim_jax.data.order import Order
from mim_jax.data.records import Records
from mim_jax.data.views import View, look
from mim_jax.errors import DataError

CHUNK_BYTES = 1 << 19
MOST_CHUNKS = 64  # of a batch; grain looks over all that are ready each time it takes one
REPLACEMENTS = 20  # tries to find a good record in place of a bad one

Chunk = dict[str, Any]


class ChunkLoader:
    """Chunk number -> chunk; the chunks of step s are those from s * `per_batch` on.

    A chunk holds one array per view, `index`, `label` where the source has labels, and `valid`; and two lists for the
    main process: `bad`, (index, sentence) of records that could not be read, and `fatal`, sentences at which to stop
    (then there are no arrays).
    """

    def __init__(
        self, records: Records, views: Sequence[View], names: Sequence[str], order: Order, seed: int, stop: bool
    ):
        self.records = records
        self.views = dict(zip(names, views, strict=True))
        self.order = order
        self.seed = seed
        self.stop = stop
        self.channels = records.channels
        count = sum(math.prod(view.shape(self.channels)) for view in views)
        self.size = max(CHUNK_BYTES // (count * records.source.dtype.itemsize), -(-order.local_size // MOST_CHUNKS))
        self.size = min(order.local_size, self.size)
        self.per_batch = -(-order.local_size // self.size)

    def __call__(self, number: int) -> Chunk:
        step, part = divmod(int(number), self.per_batch)
        epoch, indices = self.order.local(step)
        indices = indices[part * self.size : (part + 1) * self.size]
        chunk = self._empty(len(indices))
        for row, index in enumerate(indices.tolist()):
            if index >= 0:
                self._fill(chunk, row, index, epoch)
            if chunk["fatal"]:
                return {"bad": chunk["bad"], "fatal": chunk["fatal"]}
        return chunk

    def _empty(self, count: int) -> Chunk:
        dtype = self.records.source.dtype
        chunk: Chunk = {name: np.zeros((count, *v.shape(self.channels)), dtype) for name, v in self.views.items()}
        chunk["index"] = np.full(count, -1, np.int64)
        chunk["valid"] = np.zeros(count, bool)
        if self.records.source.labelled:
            chunk["label"] = np.full(count, -1, np.int32)
        return chunk | {"bad": [], "fatal": []}

    def _fill(self, chunk: Chunk, row: int, index: int, epoch: int) -> None:
        """Puts record `index`, or the one that stands in for it, into one row."""
        found = self._good(chunk, index, epoch)
        if found is None:
            return
        used, picture, label = found
        # Draws belong to the record that the order asked for, also where another stands in for it.
        images = look(tuple(self.views.values()), picture, seed=self.seed, epoch=epoch, index=index)
        for name, image in zip(self.views, images, strict=True):
            chunk[name][row] = image
        chunk["index"][row] = used
        chunk["valid"][row] = True
        if "label" in chunk:
            chunk["label"][row] = label

    def _good(self, chunk: Chunk, index: int, epoch: int) -> tuple[int, Picture, int | None] | None:
        """A record's number, picture and label; notes what was bad on the way."""
        candidate = index
        for attempt in range(REPLACEMENTS):
            try:
                picture, label = self.records[candidate]
                return candidate, picture, label
            except DataError as error:
                if self.stop:
                    chunk["fatal"].append(str(error))
                    return None
                chunk["bad"].append((candidate, str(error)))
            other = self.order.replacement(index, epoch, self.seed, attempt)
            if other is None:
                return None
            candidate = other
        chunk["fatal"].append(
            f"{chunk['bad'][-1][1]}; the {REPLACEMENTS - 1} drawn in its place are bad too, so the data must be mended"
        )
        return None


def join(chunks: Sequence[Chunk]) -> Chunk:
    """The chunks of one batch as one."""
    notes = {key: [note for chunk in chunks for note in chunk[key]] for key in ("bad", "fatal")}
    if notes["fatal"]:
        return notes
    arrays = [key for key in chunks[0] if key not in notes]
    # Always a copy: chunks from worker processes lie in shared memory that is given back.
    return {key: np.concatenate([chunk[key] for chunk in chunks]) for key in arrays} | notes
