"""Which records train and which are held out."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

from mim_jax.data.randomness import one_of_each, permutation
from mim_jax.data.settings import Settings
from mim_jax.data.sources import Source, open_source
from mim_jax.errors import DataError

HELD_OUT = 10  # one record of so many


def open_split(settings: Settings, split: str) -> tuple[Source, Int64[np.ndarray, " N"]]:
    """The source of split 'train', 'pretrain' or 'eval', and the numbers of its records, ascending.

    With `data.eval_source` each split has its own source; without, a fixed tenth of `data.source` is held out: one of
    every ten consecutive records, whatever the seed, so that runs can be compared. 'pretrain' is `data.fraction` of
    'train': the same records for every seed, and all among those of any larger share. Probes learn from all.
    """
    if split == "eval" and settings.eval_source:
        source = open_source(settings.eval_source)
        return source, np.arange(len(source), dtype=np.int64)
    source = open_source(settings.source)
    everything = np.arange(len(source), dtype=np.int64)
    if settings.eval_source:
        return source, _share(everything, settings, split)
    if len(source) < 2:
        raise DataError(f"data source '{settings.source}' has one record, none to hold out; set data.eval_source")
    held_out = one_of_each(len(source), HELD_OUT, "held out")
    if len(held_out) == 0:  # fewer than ten records, and the draw fell behind their end
        held_out = everything[-1:]
    if split == "eval":
        return source, held_out
    return source, _share(np.setdiff1d(everything, held_out, assume_unique=True), settings, split)


def _share(train: Int64[np.ndarray, " N"], settings: Settings, split: str) -> Int64[np.ndarray, " M"]:
    return some(train, max(round(len(train) * settings.fraction), 1)) if split == "pretrain" else train


def some(indices: Int64[np.ndarray, " N"], limit: int) -> Int64[np.ndarray, " M"]:
    """At most `limit` (0: all) of `indices`, ascending: the same random ones always, so that every class is met."""
    if not limit or limit >= len(indices):
        return indices
    return np.sort(indices[permutation(len(indices), seed=0, epoch=0)[:limit]])
