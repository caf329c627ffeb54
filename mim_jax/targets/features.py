"""Features of a teacher as the target."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

NORMALISATIONS = ("none", "l2", "whiten", "batch")


def normalize_features(
    features: Float[Array, "*S D"], epsilon: float = 1e-5, unbiased: bool = False
) -> Float[Array, "*S D"]:
    """Layer norm without parameters over the D values of each patch, float32, no gradient (I-JEPA's released code).

    It comes on top of the teacher's own final norm. The variance divides by D, or by D - 1 where it is unbiased (dBOT).
    """
    features = jax.lax.stop_gradient(features).astype(jnp.float32)
    centred = features - features.mean(-1, keepdims=True)
    variance = jnp.square(centred).sum(-1, keepdims=True) / (features.shape[-1] - unbiased)
    return centred * jax.lax.rsqrt(variance + epsilon)


def feature_target(kind: str, features: Float[Array, "*S D"]) -> Float[Array, "*S D"]:
    """A teacher's features, float32, no gradient (MaskAlign, section 3.3).

    none: as they are. l2: of length one. whiten: each with mean 0 and variance 1 over its values. batch: all with one
    mean and one unbiased variance of the whole batch.
    """
    if kind == "whiten":
        return normalize_features(features)
    features = jax.lax.stop_gradient(features).astype(jnp.float32)
    if kind == "l2":
        return features / jnp.maximum(jnp.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
    return (features - features.mean()) / jnp.sqrt(features.var(ddof=1) + 1e-6) if kind == "batch" else features
