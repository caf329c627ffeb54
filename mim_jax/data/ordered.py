"""Evaluation batches: every record once, in order, the last batch padded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Literal

from mim_jax.data.bad import BadRecords
from mim_jax.data.chunks import ChunkLoader
from mim_jax.data.maps import Maps
from mim_jax.data.order import FixedOrder
from mim_jax.data.records import Records
from mim_jax.data.settings import Settings
from mim_jax.data.split import open_split, some
from mim_jax.data.train import Batch, refuse_death
from mim_jax.errors import ConfigError, DataError, nearest
from mim_jax.section import Section

# Starting worker processes takes seconds; below so many records the threads of the main process are done by then.
WORKERS_FROM = 20_000


class EvalBatches:
    """A pass over one split; iterate as often as you like, the source stays open. See `eval_batches`.

    `records` is their number (padding not counted), `len()` the number of batches of each process.
    """

    def __init__(
        self,
        data: Section,
        *,
        split: Literal["eval", "train"] = "eval",
        batch_size: int,
        process_index: int = 0,
        process_count: int = 1,
        limit: int = 0,
        view: str = "eval",
        seed: int = 0,
        bad_records: str | os.PathLike[str] | None = None,
        maps: bool = False,
    ):
        self._settings = settings = Settings.from_config(data)
        if split not in ("train", "eval"):
            raise ConfigError(f"there is no split '{split}'{nearest(split, ('train', 'eval'))}")
        names = ("eval", *(v.name for v in settings.views))
        if view not in names:
            raise ConfigError(f"there is no view '{view}'{nearest(view, names)}")
        self.source, indices = open_split(settings, split)
        indices = some(indices, limit)
        self._order = FixedOrder(indices, batch_size, process_index, process_count)
        records = Records(self.source, settings)
        views, beside = [settings.view(view)], None
        if maps and settings.maps:
            held_out = split == "eval" and bool(settings.eval_source)
            for name in (name for name, one in settings.maps if held_out and not one.eval_source):
                raise ConfigError(f"data.maps.{name}.eval_source is empty, so held-out images have no maps; name it")
            beside = Maps(settings.maps, self.source, views[0], settings.max_pixels, held_out)
        stop = settings.on_error == "stop"
        self._loader = ChunkLoader(records, views, ["image"], self._order, seed, stop, maps=beside)
        self.records = len(indices)
        self._bad_path = bad_records

    def __len__(self) -> int:
        return self._order.steps

    def __iter__(self) -> Iterator[Batch]:
        """Raises DataError at a bad record (`data.on_error = stop`); with skip, `valid` is False for it."""
        from mim_jax.data.graph import batches

        s = self._settings
        bad = BadRecords(self._bad_path, self.records, s.max_bad_fraction)
        workers = s.workers if self.records >= WORKERS_FROM else 0
        running = batches(
            self._loader, first=0, last=len(self), workers=workers, threads=s.threads, prefetch=s.prefetch
        )
        try:
            for batch in running:
                bad.add(batch.pop("bad"))
                for sentence in batch.pop("fatal"):
                    raise DataError(sentence)
                yield batch
        except RuntimeError as error:
            refuse_death(error)
            raise
        finally:
            running.close()


def eval_batches(
    data: Section,
    *,
    split: Literal["eval", "train"] = "eval",
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    limit: int = 0,
    view: str = "eval",
    seed: int = 0,
    bad_records: str | os.PathLike[str] | None = None,
    maps: bool = False,
) -> EvalBatches:
    """One ordered pass of the `data` section of a config, as often as it is iterated.

    Batches carry `image` (b, H, W, C), `label` where there is one, `index`, and `valid`, False in the padding (index
    and label -1, pixels 0) that makes all batches, of all processes, equally large.

    split: 'eval' is `data.eval_source`, or the held-out tenth; 'train' the rest. limit: at most so many records, 0 for
    all; a fixed random choice. view: 'eval' is the evaluation transform, else one of `data.views`, drawn from `seed`.
    maps: the arrays of `data.maps` too, by their names.
    """
    return EvalBatches(
        data,
        split=split,
        batch_size=batch_size,
        process_index=process_index,
        process_count=process_count,
        limit=limit,
        view=view,
        seed=seed,
        bad_records=bad_records,
        maps=maps,
    )
