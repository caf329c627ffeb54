"""Standardised maps of values that outliers do not move."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

EPSILON = 1e-6


def trimmed_standardize(maps: Float[Array, "B *S"], share: float) -> Float[Array, "B *S"]:
    """Each map less the mean, over the deviation, of its values without the `share` at either end.

    Of N values int(share N) to int((1 - share) N) - 1, in order, count; the variance is the unbiased one, and 1e-6 is
    added to it. MultiMAE's depth (Bachmann et al. 2022, the released code): share 0.1.
    """
    flat = maps.reshape(len(maps), -1).astype(jnp.float32)
    size = flat.shape[1]
    kept = jnp.sort(flat, axis=1)[:, int(share * size) : int((1 - share) * size)]
    mean, variance = kept.mean(1, keepdims=True), kept.var(1, ddof=1, keepdims=True)
    return ((flat - mean) / jnp.sqrt(variance + EPSILON)).reshape(maps.shape)
