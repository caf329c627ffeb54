"""Errors per patch, averaged over the hidden patches."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def squared_error(prediction: Float[Array, "B N P"], target: Float[Array, "B N P"]) -> Float[Array, "B N"]:
    """Mean squared error over the values of each patch, float32."""
    return jnp.mean(jnp.square(prediction.astype(jnp.float32) - target.astype(jnp.float32)), axis=-1)


def mean_of_means(per_patch: Float[Array, "B N"], hidden: Bool[Array, "B N"]) -> Float[Array, ""]:
    """The mean over images of the mean over their hidden patches; images in which nothing is hidden are left out, and
    where that is all of them it is 0 (MultiMAE's code).

    Selected before it is divided, so that such an image has no gradient instead of one that is not a number.
    """
    count = jnp.sum(hidden.astype(jnp.float32), axis=1)
    means = jnp.sum(jnp.where(hidden, per_patch, 0.0), axis=1) / jnp.maximum(count, 1.0)
    return jnp.sum(jnp.where(count > 0, means, 0.0)) / jnp.maximum(jnp.sum(count > 0), 1.0)


def masked_mean(
    per_patch: Float[Array, "B N"], hidden: Bool[Array, "B N"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean over the hidden patches of the whole batch, and their number; 0 where nothing is hidden.

    Selected, not multiplied: a patch outside the loss may hold anything, infinities too.
    """
    count = jnp.sum(hidden.astype(jnp.float32))
    total = jnp.sum(jnp.where(hidden, per_patch, 0.0))
    return total / jnp.maximum(count, 1.0), count


def weighted_mean(per_cell: Float[Array, "B C"], weights: Float[Array, "B C"]) -> Float[Array, ""]:
    """Mean over the cells of the whole batch by their weights; 0 where all weights are 0.

    Selected where a weight is 0: such a cell may hold anything, infinities too.
    """
    total = jnp.sum(jnp.where(weights > 0, weights * per_cell, 0.0))
    return total / jnp.maximum(jnp.sum(weights), 1e-6)
