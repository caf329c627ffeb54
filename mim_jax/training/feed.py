"""Batches on the devices, one step ahead of the step that uses them."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from mim_jax.training.sharding import global_batch

DEPTH = 2  # batches on their way to the device


class Feed:
    """Global batches from a restartable source of local ones.

    open_at: step -> iterator over host batches from that step on. The position of a run is its step number alone, so
        what is in flight here is never part of a checkpoint.

    `index` holds this process's record numbers of the batch that came last, None where the data has none.
    """

    def __init__(self, open_at: Callable[[int], Iterator[dict[str, Any]]], mesh: Mesh, step: int):
        self._open_at, self._mesh = open_at, mesh
        self._waited = self._since = 0.0
        self.seek(step)

    def seek(self, step: int) -> None:
        """Goes to `step`: the next batch is that step's."""
        self.close()
        self._batches = self._open_at(step)
        self._queue: collections.deque = collections.deque()
        self.index: Any = None
        self._since = time.perf_counter()

    def next(self) -> dict[str, jax.Array]:
        """The next global batch; transfers of the following ones are under way when it returns."""
        while len(self._queue) < DEPTH:
            start = time.perf_counter()
            local = next(self._batches)
            self._waited += time.perf_counter() - start
            self._queue.append((local.get("index"), global_batch(local, self._mesh)))
        self.index, batch = self._queue.popleft()
        return batch

    def waiting_share(self) -> float:
        """Share of the time since the last call (or the start) that was spent waiting for the host's data."""
        now = time.perf_counter()
        share = self._waited / max(now - self._since, 1e-9)
        self._waited, self._since = 0.0, now
        return min(share, 1.0)

    def close(self) -> None:
        """Lets worker processes go."""
        close = getattr(getattr(self, "_batches", None), "close", None)
        if close:
            close()
