"""Checkpoints inside a dense protocol: an interrupted training goes on from its last one."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from mim_jax.errors import CheckpointError
from mim_jax.training.checkpoints import Checkpoints

AT_MOST = 200  # checkpoints of one training: few pairs are gone through every other step


class Kept:
    """The newest state of one training in the folder of its task; every process of a run makes one.

    epochs: passes over `images` pairs between two checkpoints. say: takes the sentence that it goes on.
    """

    def __init__(
        self, folder: Path, epochs: int | float, images: int, batch: int, steps: int, say: Callable[[str], None]
    ):
        self.folder, self.batch, self._steps, self._say = folder, batch, steps, say
        self.every = max(round(epochs * images / batch), math.ceil(steps / AT_MOST), 1)
        self._checkpoints = Checkpoints(folder, keep=1, keep_best=False, meta={"batch_size": batch})

    def restored(self, state: Any) -> tuple[Any, list[Any]]:
        """(state, losses) of the last checkpoint, placed as the fresh `state` is; (`state`, []) where there is none.

        Raises:
            CheckpointError: it cannot be read, or was written with another batch, so that the crops would differ.
        """
        if self._checkpoints.latest_step() is None:
            return state, []
        batch = self._checkpoints.read_meta()["batch_size"]
        if batch != self.batch:
            raise CheckpointError(
                f"{self.folder} was begun with batches of {batch} crops, and these devices make it {self.batch}; go on "
                "with as many devices as then, or delete the folder to begin again"
            )
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        found, data, step = self._checkpoints.restore(abstract)
        self._say(f"{self.folder.parent.name}, {self.folder.name}: continuing at step {step} of {self._steps}")
        assert isinstance(data, dict)
        return found, list(data["losses"])

    def due(self, step: int) -> bool:
        """Whether to save after so many steps."""
        return step % self.every == 0 or step == self._steps

    def save(self, step: int, state: Any, losses: list[Any]) -> None:
        """Starts writing; `state` may be given away as soon as this returns."""
        self._checkpoints.save(step, state, {"losses": [float(loss) for loss in losses]})

    def close(self) -> None:
        """Returns when all that was saved is on disk."""
        self._checkpoints.close()
