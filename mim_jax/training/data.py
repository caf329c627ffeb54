"""The training images of a run, as the loop asks for them."""

from __future__ import annotations

from pathlib import Path

import jax
from ml_collections import ConfigDict

from mim_jax.data.train import TrainBatches, train_batches
from mim_jax.training.course import Course


class TrainData:
    """The training source of a config, as the loop sees it; opened once."""

    def __init__(self, config: ConfigDict, workdir: Path):
        name = "bad_records.txt" if jax.process_count() == 1 else f"bad_records_{jax.process_index()}.txt"
        self._batches = train_batches(
            config.data,
            seed=config.seed,
            batch_size=config.training.batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            bad_records=workdir / name,
        )
        self.records = self._batches.records
        self._shift = 0

    def follow(self, course: Course) -> None:
        """Says how the steps of the run lie on its epochs; without it step 0 is the first of epoch 0."""
        self._shift = course.shift
        self._batches.lead(course.epoch, course.lead)

    def open_at(self, step: int) -> TrainBatches:
        """This process's batches from a step on. There is one stream: opening it anew moves it."""
        self._batches.set_state({"step": step + self._shift})
        return self._batches
