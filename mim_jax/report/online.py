"""What the method predicts on fixed images, drawn while it is being trained."""

from __future__ import annotations

import functools
import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PRNGKeyArray

from mim_jax.data import eval_batches
from mim_jax.methods.base import Method, Pictures, Variables
from mim_jax.report.pictures import draw, save
from mim_jax.training.views import Views

COUNT = 8  # images
Images = Mapping[str, Any]  # `image` (B, H, W, C), and maps (B, h, w, 1) by name


def fixed_images(data: Any, count: int) -> Images:
    """`image` (B, H, W, C), and the maps of `data.maps`, of at most `count` images of the evaluation split, as stored:
    the same ones always, and in every process."""
    batch = next(iter(eval_batches(data, split="eval", batch_size=count, limit=count, maps=True)))
    names = ("image", *(data.get("maps") or {}))
    return {name: np.asarray(batch[name])[np.asarray(batch["valid"])] for name in names}


@functools.partial(jax.jit, static_argnames=("method", "views"))
def _show(
    variables: Variables,
    images: Images,
    key: PRNGKeyArray,
    *,
    method: Method,
    views: Views,
) -> Pictures:
    batch = views.complete(dict(images))
    pictures = method.show(variables.params, variables.extra, variables.frozen, batch, key)
    # jit hands plain dictionaries back sorted by key; the method's own order is the one to be seen.
    return pictures.replace(panels=OrderedDict(pictures.panels), maps=OrderedDict(pictures.maps))


def predict(method: Method, variables: Variables, data: Any, images: Images, seed: int) -> Pictures:
    """`method.show` of stored images, as `fixed_images` gives them; `seed` decides what is hidden."""
    pictures = _show(variables, images, jax.random.key(seed), method=method, views=Views.from_config(data))
    # With several processes an array may lie on devices of others.
    return multihost_utils.process_allgather(pictures, tiled=True) if jax.process_count() > 1 else pictures


class Reconstructions:
    """Evaluator of the loop: pictures/step_00001234.png in the workdir, of the same images with the same mask."""

    name = "pictures"

    def __init__(self, config: Any, method: Method, workdir: str | os.PathLike[str], writers: Any, every_steps: int):
        """`writers`: its write_image(step, name, image) gets the picture too; None: the file is all."""
        self.every_steps = every_steps
        self._method, self._data, self._seed = method, config.data, config.seed
        self._folder, self._writers = Path(workdir) / "pictures", writers
        self._images: Images | None = None

    def __call__(self, variables: Variables, step: int) -> dict[str, float]:
        """Draws; there is nothing to measure, so no numbers come back."""
        if self._images is None:
            self._images = fixed_images(self._data, COUNT)
        pictures = predict(self._method, variables, self._data, self._images, self._seed)
        if jax.process_index() == 0:
            image = draw(pictures, self._data.mean, self._data.std, f"step {step}")
            save(image, self._folder / f"step_{step:08d}.png")
            if self._writers is not None:
                self._writers.write_image(step, "reconstructions", image)
        return {}
