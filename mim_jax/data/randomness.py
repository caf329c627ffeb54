"""Random draws that depend on what they are for, never on when, where or by whom they are made.

Philox is a counter-based generator: its stream is a pure function of key and counter. The key holds the seed and the
purpose, the counter the epoch, the record and its part, so threads, worker processes and hosts all draw the same
numbers.
"""

from __future__ import annotations

import zlib

import numpy as np
from jaxtyping import Int64
from numpy.random import Generator, Philox

_WORD = (1 << 64) - 1


def _philox(seed: int, purpose: str, epoch: int, index: int, part: int = 0) -> Philox:
    key = np.array([seed & _WORD, zlib.crc32(purpose.encode())], np.uint64)
    # The lowest word counts the draws themselves, so neighbouring records never share a stream.
    return Philox(key=key, counter=np.array([0, index, epoch, part], np.uint64))


def generator(seed: int, *, epoch: int, index: int, purpose: str, part: int = 0) -> Generator:
    """The generator of record `index` in `epoch` for one purpose, such as a view's name; `part` is one of its crops."""
    return Generator(_philox(seed, purpose, epoch, index, part))


def permutation(count: int, *, seed: int, epoch: int) -> Int64[np.ndarray, " N"]:
    """A shuffle of range(count) for one epoch.

    Sorts raw 64-bit words, whose stream NumPy promises to keep, instead of calling `Generator.permutation`, whose
    stream it may change.
    """
    words = _philox(seed, "order", epoch, 0).random_raw(count)
    return np.argsort(words, kind="stable").astype(np.int64, copy=False)


def one_of_each(count: int, every: int, purpose: str) -> Int64[np.ndarray, " K"]:
    """Picks one record out of each `every` consecutive ones, ascending; the same choice for ever.

    Data sorted by class gives a share of every class, and data whose classes alternate is not sampled in step.
    """
    blocks = -(-count // every)
    picks = (_philox(0, purpose, 0, 0).random_raw(blocks) % np.uint64(every)).astype(np.int64)
    picks += np.arange(blocks, dtype=np.int64) * every
    return picks[picks < count]
