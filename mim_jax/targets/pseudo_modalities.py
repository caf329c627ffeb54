"""Further modalities made from the pixels themselves, for data sets that have no others: luminance, edges, and a coarse
label map of colours.

What stands in a patch depends on the pixels of this patch alone, so that a visible token of one modality says nothing
about the hidden patches around it.
"""

from __future__ import annotations

import einops
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue


def luminance(images: Float[Array, "B H W C"]) -> Float[Array, "B H W 1"]:
    """The weighted sum of red, green and blue; of other numbers of channels their mean."""
    channels = images.shape[-1]
    weights = jnp.asarray(LUMA if channels == 3 else (1.0 / channels,) * channels)
    return (images * weights).sum(-1, keepdims=True)


def edges(images: Float[Array, "B H W C"], patch_size: tuple[int, int]) -> Float[Array, "B H W 1"]:
    """An eighth of the length of the Sobel gradient of the luminance; the border of each patch is repeated."""
    p, q = patch_size
    grid = (images.shape[1] // p, images.shape[2] // q)
    patches = einops.rearrange(luminance(images)[..., 0], "b (h p) (w q) -> (b h w) p q", p=p, q=q)
    padded = jnp.pad(patches, ((0, 0), (1, 1), (1, 1)), mode="edge")

    def slope(x: Float[Array, "N P Q"]) -> Float[Array, "N p q"]:
        """Across: differences of neighbours, smoothed down."""
        across = x[:, :, 2:] - x[:, :, :-2]
        return (across[:, :-2] + 2 * across[:, 1:-1] + across[:, 2:]) / 8

    down = slope(padded.swapaxes(1, 2)).swapaxes(1, 2)
    # The root has no finite slope at 0, and no gradient is taken through what is given to the encoder and predicted.
    length = jnp.sqrt(jnp.square(slope(padded)) + jnp.square(down))
    found = einops.rearrange(length, "(b h w) p q -> b (h p) (w q)", h=grid[0], w=grid[1])
    return jax.lax.stop_gradient(found)[..., None]


def colour_levels(classes: int, channels: int) -> int:
    """How many levels of each channel fit into so many classes: the largest n with n^min(C, 3) <= classes."""
    count, power = 1, min(channels, 3)
    while (count + 1) ** power <= classes:
        count += 1
    return count


def colours(images: Float[Array, "B H W C"], stride: int, classes: int) -> Int[Array, "B h w"]:
    """Numbers of colours: means of stride x stride pixels, each of the first three channels in `colour_levels` steps.

    The steps are equally likely for normally distributed channels of mean 0 and deviation 1, which normalised images
    have nearly.
    """
    images = images[..., :3]
    levels = colour_levels(classes, images.shape[-1])
    means = einops.reduce(images, "b (h s) (w t) c -> b h w c", "mean", s=stride, t=stride)
    step = jnp.clip(jnp.floor(jax.scipy.stats.norm.cdf(means) * levels).astype(int), 0, levels - 1)
    return (step * levels ** jnp.arange(images.shape[-1])).sum(-1)
