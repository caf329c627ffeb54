"""Masks that prefer patches which are thought to be hard (HPM, Wang et al. CVPR 2023, section 3.3)."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mim_jax.masking.mask import Mask, mask_from_hidden


def hard_counts(hidden: int, epochs: int | float, share: float = 0.5) -> tuple[int, ...]:
    """How many of the `hidden` patches are hidden for their score, for every epoch from 0 on.

    It grows in a straight line to `share` of them in the last epoch; arithmetic and truncation are the original's.
    """
    return tuple(int(hidden * ((epoch + 1) / max(epochs, epoch + 1) * share)) for epoch in range(max(int(epochs), 1)))


def hard_mask(
    scores: Float[Array, "B N"],
    noise: Float[Array, "B N"],
    hard: int | Int[Array, ""],
    visible: int,
    grid: tuple[int, int],
) -> Mask:
    """Hides the `hard` patches with the largest scores; of the others those with the smallest noise stay visible.

    hard: may be traced; 0 gives plain random masks. Both lists of the mask are in raster order.
    """
    tokens = scores.shape[1]
    rank = jnp.argsort(jnp.argsort(scores, axis=1, stable=True), axis=1)
    order = jnp.where(rank >= tokens - hard, jnp.inf, noise)
    place = jnp.argsort(jnp.argsort(order, axis=1, stable=True), axis=1)
    return mask_from_hidden(place >= visible, tokens - visible, grid)
