"""Random draws that depend on what they are for, never on when, where or by whom they are made.

Philox is a counter-based generator: its stream is a pure function of key and counter. The key holds the seed and the
purpose, the counter the epoch, the record and its part, so threads, worker processes and hosts all draw the same
numbers.
"""

from __future__ import annotations

import zlib

import numpy as np
from jaxtyping import Int64, UInt64
from numpy.random import Generator, Philox

_WORD = (1 << 64) - 1


def _philox(seed: int, purpose: str, epoch: int, index: int, part: int = 0) -> Philox:
    key = np.array([seed & _WORD, zlib.crc32(purpose.encode())], np.uint64)
    # The lowest word counts the draws themselves, so neighbouring records never share a stream.
    return Philox(key=key, counter=np.array([0, index, epoch, part], np.uint64))


def generator(seed: int, *, epoch: int, index: int, purpose: str, part: int = 0) -> Generator:
    """The generator of record `index` in `epoch` for one purpose, such as a view's name; `part` is one of its crops."""
    return Generator(_philox(seed, purpose, epoch, index, part))


def words(
    seed: int, epoch: int, indices: Int64[np.ndarray, " B"], purpose: str, blocks: int
) -> UInt64[np.ndarray, "B W"]:
    """The first 4 * `blocks` raw words of the generator of every record; all at once, which is far quicker.

    Philox4x64-10: "Parallel random numbers: as easy as 1, 2, 3" (Salmon et al. 2011), section 3.3.
    """
    shape = (len(indices), blocks)
    first = np.broadcast_to(np.arange(1, blocks + 1, dtype=np.uint64), shape)  # NumPy counts before it draws
    c = [first, np.broadcast_to(indices.astype(np.uint64)[:, None], shape)]
    c += [np.full(shape, epoch, np.uint64), np.zeros(shape, np.uint64)]
    key = [seed & _WORD, zlib.crc32(purpose.encode())]
    for _ in range(10):
        high0, low0 = _multiply(c[0], 0xD2E7470EE14C6C93)
        high1, low1 = _multiply(c[2], 0xCA5A826395121157)
        c = [high1 ^ c[1] ^ np.uint64(key[0]), low1, high0 ^ c[3] ^ np.uint64(key[1]), low0]
        key = [(key[0] + 0x9E3779B97F4A7C15) & _WORD, (key[1] + 0xBB67AE8584CAA73B) & _WORD]
    return np.stack(c, axis=-1).reshape(len(indices), 4 * blocks)


def _multiply(a: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """The upper and the lower 64 bits of the product."""
    half, mask = np.uint64(32), np.uint64(0xFFFFFFFF)
    low, high = np.uint64(factor & 0xFFFFFFFF), np.uint64(factor >> 32)
    a0, a1 = a & mask, a >> half
    middle = a1 * low + (a0 * low >> half)
    other = a0 * high + (middle & mask)
    return a1 * high + (middle >> half) + (other >> half), a * np.uint64(factor)


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
