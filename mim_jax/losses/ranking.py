"""Losses for predicting which errors are large (HPM, Wang et al. CVPR 2023, section 3.2)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

FLOOR = 1e-6


def ranking_loss(predicted: Float[Array, "B M"], error: Float[Array, "B M"]) -> Float[Array, ""]:
    """Cross-entropy of "is j harder than i" over all ordered pairs of an image's patches, float32.

    The mean is over the pairs of the whole batch whose errors differ; ties count for nothing. ln 2 where nothing is
    told apart. Gradients reach `predicted` alone.
    """
    error = jax.lax.stop_gradient(error)
    harder, easier = error[:, None] > error[:, :, None], error[:, None] < error[:, :, None]
    likely = jax.nn.sigmoid((predicted[:, None] - predicted[:, :, None]).astype(jnp.float32))
    terms = jnp.where(harder, -jnp.log(likely + FLOOR), jnp.where(easier, -jnp.log(1 - likely + FLOOR), 0.0))
    return terms.sum() / jnp.maximum(jnp.sum((harder | easier).astype(jnp.float32)), 1.0)


def regression_loss(predicted: Float[Array, "B M"], error: Float[Array, "B M"]) -> Float[Array, ""]:
    """Mean squared difference to the errors, standardised per image (unbiased variance, epsilon 1e-6)."""
    error = jax.lax.stop_gradient(error)
    mean, variance = error.mean(1, keepdims=True), error.var(1, keepdims=True, ddof=1)
    target = (error - mean) / jnp.sqrt(variance + FLOOR)
    return jnp.mean(jnp.square(predicted.astype(jnp.float32) - target))


PREDICTOR_LOSSES = {"relative": ranking_loss, "absolute": regression_loss}
