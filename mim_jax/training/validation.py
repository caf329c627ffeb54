"""The loss on held-out images, hidden the same way every time."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mim_jax.methods.base import Method, Progress, Variables
from mim_jax.training.sharding import batch_shards, global_batch
from mim_jax.training.state import run_key
from mim_jax.training.views import Views


class ValidationLoss:
    """Mean loss over at most `training.evaluate.images` held-out images on fixed masks, so that steps compare.

    Whole batches only: every image weighs the same. The masks depend on the seed and the batch number, never on
    the step.
    """

    name = "validation loss"

    def __init__(
        self, config: ConfigDict, method: Method, mesh: Mesh, every_steps: int, eval_batches: Callable[..., Any]
    ):
        self._config, self._mesh, self.every_steps = config, mesh, every_steps
        self._open = eval_batches
        self._batches: Any = None  # opened once, read at every look
        views = Views.from_config(config.data)
        self._names = ("image", "label", *(name for name, shape in views.shapes if shape.given))

        def loss(variables: Variables, batch, key):
            batch = views.complete(batch)
            value, output = method.loss(
                variables.params, variables.extra, variables.frozen, batch, key, Progress.at(0, 1, 1)
            )
            return value, output.weight

        self._loss = jax.jit(loss)

    def __call__(self, variables: Variables, step: int) -> dict[str, float]:
        config = self._config
        limit = config.training.evaluate.images
        shards = batch_shards(self._mesh)
        size = max(shards, min(config.training.batch_size, limit, 256) // shards * shards)
        key = run_key(config.seed, "validation")
        losses, weights = [], []
        if self._batches is None:
            self._batches = self._open(
                config.data,
                split="eval",
                batch_size=size,
                process_index=jax.process_index(),
                process_count=jax.process_count(),
                limit=limit,
                maps=True,
            )
        for number, batch in zip(itertools.count(), self._batches, strict=False):
            if not batch["valid"].all():
                break
            given = {name: batch[name] for name in self._names if name in batch}
            images = global_batch(given, self._mesh)
            loss, weight = self._loss(variables, images, jax.random.fold_in(key, number))
            losses.append(float(loss))
            weights.append(float(weight))
        return {"val_loss": float(np.average(losses, weights=weights))} if losses else {}
