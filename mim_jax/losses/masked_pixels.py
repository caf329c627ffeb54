"""Errors per pixel, averaged over the hidden pixels."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

EPSILON = 1e-5


def masked_l1(
    prediction: Float[Array, "B H W C"], target: Float[Array, "B H W C"], hidden: Bool[Array, "B H W"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """sum(|prediction - target| over hidden pixels) / (hidden pixels + 1e-5) / channels, and the divisor of the sum
    (SimMIM, section 3.4, with the original's constant). Sums run over the whole batch.

    Selected, not multiplied: a pixel outside the loss may hold anything, infinities too.
    """
    error = jnp.abs(prediction.astype(jnp.float32) - target.astype(jnp.float32))
    total = jnp.sum(jnp.where(hidden[..., None], error, 0.0))
    count = jnp.sum(hidden.astype(jnp.float32)) + EPSILON
    return total / count / target.shape[-1], count
