"""Batches of pairs: random crops without end for training, whole pairs in order for the test."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import SupportsInt

import numpy as np

from mim_jax.data.pair_views import PairView
from mim_jax.data.pairs import MapRule, Pair, Pairs
from mim_jax.data.randomness import generator, permutation

AHEAD = 2  # batches that are being made while one is used


class PairReader:
    """Pairs with everything it takes to read them."""

    def __init__(self, pairs: Pairs, indices: Iterable[SupportsInt], rule: MapRule, channels: int, max_pixels: int):
        self.pairs, self.indices, self.rule = pairs, [int(i) for i in indices], rule
        self.channels, self.max_pixels = channels, max_pixels

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> Pair:
        """The i-th of the pairs that count."""
        return self.pairs.read(self.indices[i], self.rule, self.channels, self.max_pixels)


def train_crops(
    reader: PairReader,
    view: PairView,
    *,
    steps: int,
    start: int = 0,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 16,
) -> Iterator[dict[str, np.ndarray]]:
    """Batches `start` to `steps` - 1 of this process's share: `image` (b, H, W, C) uint8 and `map` (b, H, W).

    Every pass over the pairs has another order and other crops, which depend on (seed, pass, pair) alone; a batch may
    begin in one pass and end in the next, so few pairs serve any batch size.

    Raises:
        DataError: a pair that cannot be read.
    """
    own = batch_size // process_count
    orders: dict[int, np.ndarray] = {}

    def crop(place: int) -> Pair:
        epoch, position = divmod(place, len(reader))
        i = int(orders[epoch][position])
        return view.train(reader[i], generator(seed, epoch=epoch, index=reader.indices[i], purpose="pair"))

    def begin(step: int, pool: ThreadPoolExecutor) -> list[Future[Pair]]:
        places = range(first := step * batch_size + process_index * own, first + own)
        for epoch in {place // len(reader) for place in places}:
            if epoch not in orders:
                orders[epoch] = permutation(len(reader), seed=seed, epoch=epoch)
        for epoch in [e for e in orders if e < (places[0] - (AHEAD + 1) * batch_size) // len(reader)]:
            del orders[epoch]
        return [pool.submit(crop, place) for place in places]

    with ThreadPoolExecutor(max(1, threads)) as pool:
        waiting: collections.deque[list[Future[Pair]]] = collections.deque()
        try:
            for step in range(start, steps + AHEAD):
                if step < steps:
                    waiting.append(begin(step, pool))
                if step >= start + AHEAD:
                    made = [future.result() for future in waiting.popleft()]
                    yield {"image": np.stack([p.image for p in made]), "map": np.stack([p.map for p in made])}
        finally:
            for futures in waiting:
                for future in futures:
                    future.cancel()


def whole_pairs(
    reader: PairReader, *, process_index: int = 0, process_count: int = 1, threads: int = 16
) -> Iterator[Pair]:
    """Every pair of this process's share once, in order, some of them read ahead."""
    own = range(process_index, len(reader), process_count)
    with ThreadPoolExecutor(max(1, threads)) as pool:
        waiting: collections.deque[Future[Pair]] = collections.deque()
        try:
            for i in own:
                waiting.append(pool.submit(reader.__getitem__, i))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
