"""Features of randomly cropped and flipped training images, another draw each epoch."""

from __future__ import annotations

from typing import Any

import numpy as np

from mim_jax import recipes
from mim_jax.evaluation.features import FeatureSet
from mim_jax.evaluation.protocol import Task


def probe_data(data: Any, scale: tuple[float, float]) -> Any:
    """The `data` section with one view, MAE's for the linear probe.

    A random part of `scale` of the area, drawn once and clipped to the image where it is too long (no ten tries), and
    a flip as likely as in the run's own view: what must not be mirrored in pretraining must not be here.
    """
    name = "image" if "image" in data.views else next(iter(data.views))
    own = data.views[name]
    view = recipes.view(tuple(own.size)) | {"interpolation": own.interpolation, "flip": own.flip, "scale": scale}
    probe = data.copy_and_resolve_references()
    with probe.unlocked():
        probe.views = {"image": view | {"crop": "random_resized_clipped"}}
    return probe


def epoch_features(task: Task, scale: tuple[float, float], epoch: int) -> FeatureSet:
    """Every training image once, cropped and flipped as (seed, epoch, record) say, through the encoder."""
    seed = int(np.random.SeedSequence([task.seed, epoch]).generate_state(1)[0])
    return task.run_over(task.open(probe_data(task.data, scale), "train", view="image", seed=seed))
