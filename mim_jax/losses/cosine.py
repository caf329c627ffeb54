"""Distance of directions."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def cosine_error(prediction: Float[Array, "*B D"], target: Float[Array, "*B D"]) -> Float[Array, "*B"]:
    """1 - cosine of the angle between two vectors, float32; 1 where either is zero, and then without gradient."""

    def unit(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        x = x.astype(jnp.float32)
        square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
        return x / jnp.sqrt(jnp.maximum(square, 1e-12))

    return 1.0 - jnp.sum(unit(prediction) * unit(target), axis=-1)
