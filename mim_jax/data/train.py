"""Training batches: endless, shuffled anew every epoch, the same on any number of threads, workers and processes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mim_jax.data.bad import BadRecords
from mim_jax.data.chunks import ChunkLoader
from mim_jax.data.maps import Maps
from mim_jax.data.order import ShuffledOrder
from mim_jax.data.records import Records
from mim_jax.data.settings import Settings
from mim_jax.data.split import open_split
from mim_jax.errors import DataError
from mim_jax.section import Section

Batch = dict[str, np.ndarray]


class TrainBatches(Iterator[Batch]):
    """Batches of this process, from a step on; see `train_batches`.

    The state is the number of the next step and nothing else, so it holds on other hardware too. `records` is the
    number of training records, `steps_per_epoch` of whole batches in them, `bad_records` what was skipped.
    """

    def __init__(
        self,
        data: Section,
        *,
        seed: int,
        batch_size: int,
        process_index: int = 0,
        process_count: int = 1,
        bad_records: str | os.PathLike[str] | None = None,
        step: int = 0,
    ):
        self._settings = settings = Settings.from_config(data)
        self.source, indices = open_split(settings, "pretrain")
        order = ShuffledOrder(indices, batch_size, process_index, process_count, seed)
        names = [view.name for view in settings.views]
        records = Records(self.source, settings)
        self._order = order
        view, pixels = settings.view("image"), settings.max_pixels
        maps = Maps(settings.maps, self.source, view, pixels, held_out=False) if settings.maps else None
        self._loader = ChunkLoader(
            records,
            settings.views,
            names,
            order,
            seed,
            settings.on_error == "stop",
            on_device=settings.crop_on == "device",
            workers=settings.workers,
            maps=maps,
        )
        self.records = len(indices)
        self.steps_per_epoch = order.steps_per_epoch
        self.bad_records = BadRecords(bad_records, self.records, settings.max_bad_fraction)
        self._step = step
        self._iterator: Any = None

    def __iter__(self) -> TrainBatches:
        return self

    def __next__(self) -> Batch:
        """The next batch: one array per view, (b, H, W, C) or (b, count, H, W, C), one per map, (b, h, w, 1), `index`,
        `label` where there is one.

        Raises:
            DataError: a bad record (`data.on_error = stop`), or too many of them; the position stays where it is.
        """
        if self._iterator is None:
            from mim_jax.data.graph import batches

            s = self._settings
            self._iterator = batches(
                self._loader, first=self._step, last=None, workers=s.workers, threads=s.threads, prefetch=s.prefetch
            )
        try:
            batch = next(self._iterator)
            self.bad_records.add(batch.pop("bad"))
            for sentence in batch.pop("fatal"):
                raise DataError(sentence)
        except BaseException as error:
            self.close()
            refuse_death(error)
            raise
        del batch["valid"]  # every record of a training batch is
        self._step += 1
        return batch

    def get_state(self) -> dict[str, int]:
        """The position, ready for JSON."""
        return {"step": self._step}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Goes to a position; what was read ahead is thrown away."""
        self.close()
        self._step = int(state["step"])

    def lead(self, epoch: int, records: int) -> None:
        """Lets the batches of one epoch begin so many records later: the rest of an epoch under a new batch size."""
        self.close()
        self._order.lead = (epoch, records)

    def close(self) -> None:
        """Ends threads and worker processes; the next batch starts new ones."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None


def refuse_death(error: BaseException) -> None:
    """Raises DataError with a sentence where `error` says that a worker process died; else does nothing."""
    if isinstance(error, RuntimeError) and "Worker process was terminated" in str(error):
        code = str(error).partition("exit code ")[2].split(".")[0]
        raise DataError(
            f"a worker process of the data pipeline died (exit code {code}), most often for want of memory; lower "
            "data.workers or data.prefetch"
        ) from error


def train_batches(
    data: Section,
    *,
    seed: int,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    bad_records: str | os.PathLike[str] | None = None,
    step: int = 0,
) -> TrainBatches:
    """Endless training batches of the `data` section of a config.

    batch_size: of all processes together. bad_records: file for what is skipped. step: where to begin.
    Order, crops and flips of record i in epoch e depend on (seed, e, i) alone.

    Raises:
        ConfigError: an impossible value. DataError: no such data, or fewer records than `batch_size`.
    """
    return TrainBatches(
        data,
        seed=seed,
        batch_size=batch_size,
        process_index=process_index,
        process_count=process_count,
        bad_records=bad_records,
        step=step,
    )


def steps_per_epoch(data: Section, batch_size: int) -> int:
    """Whole batches in the training split; opens the source, so prefer the attribute where batches are at hand."""
    _, indices = open_split(Settings.from_config(data), "pretrain")
    return len(indices) // batch_size
