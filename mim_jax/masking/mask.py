"""The Mask: which patches of an image are hidden."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int


class Mask(struct.PyTreeNode):
    """Hidden patches of a batch; every array leads with the batch axis.

    hidden: Bool[B, N], True where a patch is hidden, raster order.
    visible, masked: Int[B, V] and Int[B, M], patch numbers in the order in which the model sees them (stated by the
        sampler), present only where the count is the same for every image and known before compilation.
    grid: (h, w), static; N = h * w.
    """

    hidden: Any
    visible: Any = None
    masked: Any = None
    grid: tuple[int, int] = struct.field(pytree_node=False, default=(0, 0))


def mask_from_noise(noise: Float[Array, "B N"], visible_count: int, grid: tuple[int, int]) -> Mask:
    """Keeps the `visible_count` patches with the smallest noise, in ascending order of the noise (MAE, section 3).

    The order is part of the definition: MAE's encoder sees its tokens shuffled, and the reference latents are in
    that order. Equal noise keeps raster order.
    """
    shuffle = jnp.argsort(noise, axis=1, stable=True)
    visible, masked = shuffle[:, :visible_count], shuffle[:, visible_count:]
    rank = jnp.argsort(shuffle, axis=1)
    return Mask(hidden=rank >= visible_count, visible=visible, masked=masked, grid=grid)


def gather_tokens(tokens: Float[Array, "B N *D"], index: Int[Array, "B V"]) -> Float[Array, "B V *D"]:
    """Picks tokens `index` of every image."""
    return jax.vmap(lambda row, i: row[i])(tokens, index)


def mask_from_hidden(hidden: Bool[Array, "B N"], hidden_count: int, grid: tuple[int, int]) -> Mask:
    """Indices for a mask of which every image hides exactly `hidden_count` patches; both lists in raster order."""
    order = jnp.argsort(hidden, axis=1, stable=True)
    visible = hidden.shape[1] - hidden_count
    return Mask(hidden=hidden, visible=order[:, :visible], masked=order[:, visible:], grid=grid)
