"""Features of a teacher as the target."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def normalize_features(features: Float[Array, "*S D"], epsilon: float = 1e-5) -> Float[Array, "*S D"]:
    """Layer norm without parameters over the D values of each patch, float32, no gradient (I-JEPA's released code).

    It comes on top of the teacher's own final norm. The variance divides by D.
    """
    features = jax.lax.stop_gradient(features).astype(jnp.float32)
    centred = features - features.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + epsilon)
