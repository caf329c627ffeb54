"""Pictures of predicted patches, the same for every method that predicts something drawable."""

from __future__ import annotations

import jax
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


def feature_colours(
    features: Float[Array, "B N D"], grid: tuple[int, int], images: Float[Array, "B H W C"]
) -> Float[Array, "B H W C"]:
    """Features of patches as colours: their three largest principal components over the batch, at the images' size.

    One standard deviation of a component is one of a channel; with other channel counts components repeat or drop.
    """
    flat = features.astype(jnp.float32).reshape(-1, features.shape[-1])
    centred = flat - flat.mean(0)
    _, vectors = jnp.linalg.eigh(centred.T @ centred)
    main = centred @ vectors[:, ::-1][:, :3]
    main = main / jnp.maximum(main.std(0), 1e-6)
    colours = main[:, jnp.arange(images.shape[-1]) % main.shape[-1]]
    colours = colours.reshape(len(images), *grid, images.shape[-1])
    return jax.image.resize(colours, images.shape, "nearest")
