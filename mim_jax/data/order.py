"""Which records make up a step, as a pure function of its number."""

from __future__ import annotations

import threading

import numpy as np
from jaxtyping import Int64

from mim_jax.data.randomness import generator, permutation
from mim_jax.errors import ConfigError, DataError


class Order:
    """The records of every step, for one process of several.

    The global batch is the same set in the same order whatever the number of processes; process k takes the k-th of
    its equal, contiguous parts.
    """

    def __init__(self, indices: Int64[np.ndarray, " N"], batch_size: int, process_index: int, process_count: int):
        if batch_size < 1 or batch_size % process_count:
            raise ConfigError(
                f"batch_size {batch_size} does not divide into {process_count} equal parts, one a process; choose a "
                f"multiple of {process_count}"
            )
        self.indices = indices
        self.batch_size = batch_size
        self.local_size = batch_size // process_count
        self._from = process_index * self.local_size

    def local(self, step: int) -> tuple[int, Int64[np.ndarray, " B"]]:
        """The epoch of a step and this process's record numbers, -1 where the batch is padded."""
        raise TypeError(f"{type(self).__name__} has no order")

    def replacement(self, index: int, epoch: int, seed: int, attempt: int) -> int | None:
        """What stands in for a bad record, or None where nothing may."""
        del index, epoch, seed, attempt
        return None


class ShuffledOrder(Order):
    """Training: every epoch in an order of its own, without end; what does not fill the last batch is dropped."""

    def __init__(
        self, indices: Int64[np.ndarray, " N"], batch_size: int, process_index: int, process_count: int, seed: int
    ):
        super().__init__(indices, batch_size, process_index, process_count)
        if batch_size > len(indices):
            raise DataError(
                f"batch_size {batch_size} is larger than the {len(indices)} training records; lower training.batch_size"
            )
        self.seed = seed
        self.steps_per_epoch = len(indices) // batch_size
        # (epoch, records): in this epoch batches begin so many records later; of runs whose batch size has changed.
        self.lead = (0, 0)
        self._orders: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_orders": {}, "_lock": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def local(self, step: int) -> tuple[int, Int64[np.ndarray, " B"]]:
        epoch, within = divmod(step, self.steps_per_epoch)
        lead = self.lead[1] if epoch == self.lead[0] else 0
        first = within * self.batch_size + lead + self._from
        return epoch, self.indices[self._order(epoch)[first : first + self.local_size]]

    def _order(self, epoch: int) -> np.ndarray:
        with self._lock:
            if epoch not in self._orders:
                for old in [e for e in self._orders if abs(e - epoch) > 1]:
                    del self._orders[old]
                self._orders[epoch] = permutation(len(self.indices), seed=self.seed, epoch=epoch)
            return self._orders[epoch]

    def replacement(self, index: int, epoch: int, seed: int, attempt: int) -> int | None:
        draws = generator(seed, epoch=epoch, index=index, purpose="replacement").random(attempt + 1)
        return int(self.indices[int(draws[attempt] * len(self.indices))])


class FixedOrder(Order):
    """Evaluation: one pass in ascending order, the last batch padded."""

    def __init__(self, indices: Int64[np.ndarray, " N"], batch_size: int, process_index: int, process_count: int):
        super().__init__(indices, batch_size, process_index, process_count)
        self.steps = -(-len(indices) // batch_size)

    def local(self, step: int) -> tuple[int, Int64[np.ndarray, " B"]]:
        first = step * self.batch_size + self._from
        found = self.indices[first : first + self.local_size]
        return 0, np.pad(found, (0, self.local_size - len(found)), constant_values=-1)
