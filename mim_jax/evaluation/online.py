"""kNN on the encoder as it is being trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax.sharding import Mesh

from mim_jax.errors import CheckpointError
from mim_jax.evaluation.encoders import Encoder
from mim_jax.evaluation.knn import KNN
from mim_jax.evaluation.labels import LabelError
from mim_jax.evaluation.protocol import Task
from mim_jax.methods.base import Method, Variables


class OnlineKNN:
    """Evaluator of the loop: {'knn': top-1} for the first k of evaluation.knn, on a subset of either split.

    The subset, `training.evaluate.images` of each split, is the same at every call; the encoder is compiled once.
    """

    name = "knn"

    def __init__(self, config: Any, method: Method, mesh: Mesh, every_steps: int, say: Callable[[str], None] = print):
        self.every_steps = every_steps
        self._protocol = KNN.from_config(config.evaluation)
        self._say = say
        self._task = Task(
            Encoder("trained", Variables(params={}), method),
            config.data,
            (self._protocol.feature,),
            batch_size=config.evaluation.knn.batch_size,
            limit=config.training.evaluate.images,
            mesh=mesh,
        )

    def __call__(self, variables: Variables, step: int) -> dict[str, float]:
        """Empty, with a sentence why, where labels or features do not serve: pretraining needs neither."""
        self._task.renew(variables)
        try:
            numbers = self._protocol.run(self._task)
        except (CheckpointError, LabelError) as error:
            self._say(f"step {step}: no kNN accuracy: {error}")
            return {}
        finally:
            self._task.renew(Variables(params={}))  # the step donates these arrays; features need not be kept either
        return {"knn": next(iter(numbers.metrics.values()))}
