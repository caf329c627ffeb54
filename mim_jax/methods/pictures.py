"""Pictures of predicted patches, the same for every method that predicts something drawable."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mim_jax.masking.mask import Mask
from mim_jax.masking.multi_block import Blocks
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


def token_pictures(
    images: Float[Array, "B H W C"],
    hidden: Bool[Array, "B N"],
    patch_size: tuple[int, int],
    decode: Callable[[Int[Array, "B N"]], Float[Array, "B h w C"]],
    tokens: Int[Array, "B N"],
    predicted: Int[Array, "B N"],
) -> Pictures:
    """Input, masked input, the true tokens decoded, and decoded with the predicted ids of the hidden patches.

    decode: token ids to pixels in [0, 1]. The heat map marks hidden patches whose id was not met.
    """
    plain = patch_pictures(images, patchify(images, patch_size), hidden, patch_size).panels
    panels = {name: plain[name] for name in ("input", "masked")}
    panels |= {"tokens decoded": decode(tokens), "predicted tokens": decode(jnp.where(hidden, predicted, tokens))}
    grid = (images.shape[1] // patch_size[0], images.shape[2] // patch_size[1])
    wrong = (hidden & (predicted != tokens)).reshape(-1, *grid).astype(jnp.float32)
    wrong = jnp.repeat(jnp.repeat(wrong, patch_size[0], 1), patch_size[1], 2)
    return Pictures(panels, {"wrong ids": wrong}, unit=("tokens decoded", "predicted tokens"))


def block_pictures(
    images: Float[Array, "B H W C"],
    patch_size: tuple[int, int],
    mask: Mask,
    blocks: Blocks,
    features: Float[Array, "B N D"],
    prediction: Float[Array, "B K M D"],
) -> Pictures:
    """Input, context, target blocks (brighter where they overlap), a teacher's features, and those predicted.

    prediction: features of the target blocks; shown at their patches, averaged where blocks overlap, grey elsewhere.
    The heat map is the mean absolute error of the features at these patches.
    """
    plain = patch_pictures(images, patchify(images, patch_size), mask.hidden, patch_size).panels
    where = jax.nn.one_hot(blocks.target, features.shape[1]) * blocks.target_valid[..., None]  # (B, K, M, N)
    covered = where.sum((1, 2))
    pasted = jnp.einsum("bkmn,bkmd->bnd", where, prediction) / jnp.maximum(covered, 1.0)[..., None]

    def patches(values):  # (B, N) -> (B, H, W)
        values = values.reshape(-1, *mask.grid)
        return jnp.repeat(jnp.repeat(values, patch_size[0], 1), patch_size[1], 2)

    # Coloured together, so that equal colours are equal features.
    both = jnp.concatenate([features, jnp.where(covered[..., None] > 0, pasted, features)])
    colours, predicted = jnp.split(feature_colours(both, mask.grid, jnp.concatenate([images, images])), 2)
    shade = (patches(covered) / blocks.target.shape[1])[..., None]
    panels = {
        "input": images,
        "context": plain["masked"],
        "targets": images * 0.5 + 1.5 * shade,
        "target features": colours,
        "predicted features": jnp.where(shade > 0, predicted, 0.0),
    }
    error = jnp.abs(features - pasted).mean(-1)
    return Pictures(panels, {"error": patches(jnp.where(covered > 0, error, 0.0))})


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


def id_colours(
    ids: Int[Array, "B N"], grid: tuple[int, int], images: Float[Array, "B H W C"]
) -> Float[Array, "B H W C"]:
    """Ids of patches (clusters, tokens) as arbitrary colours at the images' size; equal ids have equal colours."""
    colours = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(jax.random.key(0), i), images.shape[-1:]))
    flat = colours(ids.reshape(-1)).reshape(len(images), *grid, images.shape[-1])
    return jax.image.resize(flat, images.shape, "nearest")
