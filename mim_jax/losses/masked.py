"""Errors per patch, averaged over the hidden patches."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def squared_error(prediction: Float[Array, "B N P"], target: Float[Array, "B N P"]) -> Float[Array, "B N"]:
    """Mean squared error over the values of each patch, float32."""
    return jnp.mean(jnp.square(prediction.astype(jnp.float32) - target.astype(jnp.float32)), axis=-1)


def masked_mean(
    per_patch: Float[Array, "B N"], hidden: Bool[Array, "B N"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean over the hidden patches of the whole batch, and their number; 0 where nothing is hidden.

    Selected, not multiplied: a patch outside the loss may hold anything, infinities too.
    """
    count = jnp.sum(hidden.astype(jnp.float32))
    total = jnp.sum(jnp.where(hidden, per_patch, 0.0))
    return total / jnp.maximum(count, 1.0), count
