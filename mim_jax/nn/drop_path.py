"""Stochastic depth per image, with its random numbers given from outside."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray


def drop_path(
    x: Float[Array, "B *S"], noise: Float[Array, "B"] | None, rate: float | Float[Array, ""]
) -> Float[Array, "B *S"]:
    """Zeroes a residual branch for the images whose uniform `noise` is below `rate`, and divides the rest by 1 - rate.

    The noise is drawn once for the global batch, so micro-batches and device counts do not change who is dropped.
    Without noise (evaluation) the branch passes unchanged. Huang et al. 2016.
    """
    if noise is None:
        return x
    keep = (noise >= rate).astype(x.dtype) / jnp.asarray(1.0 - rate, x.dtype)
    return x * keep.reshape((-1,) + (1,) * (x.ndim - 1))


def drop_path_rates(rate: float, depth: int, before: int = 0) -> Float[np.ndarray, "L"]:
    """Rates that grow linearly from 0 in the first block to `rate` in the last; of the last `depth` blocks, where the
    network has `before` others in front of them."""
    return np.linspace(0.0, rate, before + depth, dtype=np.float32)[before:]


def drop_path_noise(key: PRNGKeyArray, batch: int, depth: int, rate: float) -> Float[Array, "B L 2"] | None:
    """The uniform noise of a whole stack, two branches per block; None where the rate is 0."""
    return jax.random.uniform(key, (batch, depth, 2)) if rate > 0 else None
