"""Features of randomly cropped and flipped training images, another draw each epoch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mim_jax.evaluation.features import FeatureSet
from mim_jax.evaluation.protocol import Task
from mim_jax.evaluation.views import VIEW, one_view

# What differs between the authors' crops, as keys of `recipes.view`. MAE's probe: a part of the area, drawn once and
# clipped to the image where it is too long. DINO's and iBOT's: torchvision's, with its ten tries and its own filter.
CLIPPED = {"crop": "random_resized_clipped"}
TORCHVISION = {"crop": "random_resized", "interpolation": "bilinear"}


def epoch_features(
    task: Task, names: Sequence[str], scale: tuple[float, float], epoch: int, kind: dict[str, str] = CLIPPED
) -> FeatureSet:
    """The named features of every training image once, in the order of `task.train`.

    Each image is cropped to a part of `scale` of its area, in the way of `kind`, and flipped as (seed, epoch, record)
    say; then it goes through the encoder.
    """
    data = one_view(task.data, scale=scale, **kind)
    seed = int(np.random.SeedSequence([task.seed, epoch]).generate_state(1)[0])
    return task.run_over(task.open(data, "train", view=VIEW, seed=seed), names)
