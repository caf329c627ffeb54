"""Pixels as the target: raw, or standardised per patch (MAE, section 3, 'reconstruction target')."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

EPSILON = 1e-6


def patch_statistics(patches: Float[Array, "B N P"]) -> tuple[Float[Array, "B N 1"], Float[Array, "B N 1"]]:
    """Mean and UNBIASED variance (divide by P - 1) of the values of each patch."""
    return patches.mean(-1, keepdims=True), patches.var(-1, keepdims=True, ddof=1)


def standardize(patches: Float[Array, "B N P"]) -> Float[Array, "B N P"]:
    """(values - mean) / sqrt(variance + 1e-6) per patch."""
    mean, variance = patch_statistics(patches)
    return (patches - mean) / jnp.sqrt(variance + EPSILON)


def unstandardize(values: Float[Array, "B N P"], patches: Float[Array, "B N P"]) -> Float[Array, "B N P"]:
    """Undoes `standardize` with the true statistics of `patches`: no model sees them, so say so where it is shown."""
    mean, variance = patch_statistics(patches)
    return values * jnp.sqrt(variance + EPSILON) + mean
