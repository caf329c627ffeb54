"""Features of randomly cropped and flipped training images, another draw each epoch."""

from __future__ import annotations

import numpy as np

from mim_jax.evaluation.features import FeatureSet
from mim_jax.evaluation.protocol import Task
from mim_jax.evaluation.views import VIEW, one_view


def epoch_features(task: Task, scale: tuple[float, float], epoch: int) -> FeatureSet:
    """Every training image once, cropped and flipped as (seed, epoch, record) say, through the encoder.

    The crop is MAE's for the linear probe: a part of `scale` of the area, drawn once and clipped to the image where it
    is too long (no ten tries).
    """
    data = one_view(task.data, crop="random_resized_clipped", scale=scale)
    seed = int(np.random.SeedSequence([task.seed, epoch]).generate_state(1)[0])
    return task.run_over(task.open(data, "train", view=VIEW, seed=seed))
