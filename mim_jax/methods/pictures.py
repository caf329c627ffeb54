"""Pictures of predicted patches, the same for every method that predicts something drawable."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mim_jax.methods.base import Pictures
from mim_jax.nn.patches import patchify, unpatchify


def patch_pictures(
    images: Float[Array, "B H W C"],
    prediction: Float[Array, "B N P"],
    hidden: Bool[Array, "B N"],
    patch_size: tuple[int, int],
    true_patch_statistics: bool = False,
) -> Pictures:
    """Input, masked input, prediction, prediction pasted into the input, and the error of the hidden patches.

    prediction: normalised pixel values per patch; true_patch_statistics: whether the truth was used to get them.
    """
    grid = (images.shape[1] // patch_size[0], images.shape[2] // patch_size[1])
    patches, hide = patchify(images, patch_size), hidden[:, :, None]

    def image(values):
        return unpatchify(values, patch_size, grid)

    panels = {
        "input": images,
        "masked": image(jnp.where(hide, 0.0, patches)),
        "prediction": image(prediction),
        "pasted": image(jnp.where(hide, prediction, patches)),
    }
    error = jnp.abs(image(jnp.where(hide, prediction - patches, 0.0))).mean(-1)
    return Pictures(panels, {"error": error}, true_patch_statistics)
