"""Layer normalisation as the field's vision transformers use it."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype


def layer_norm(
    name: str | None,
    dtype: Dtype = jnp.float32,
    epsilon: float = 1e-6,
    bias_init=nn.initializers.zeros,
    scale_init=nn.initializers.ones,
) -> nn.LayerNorm:
    """LayerNorm with epsilon 1e-6; two-pass statistics in float32 (one-pass variance loses digits)."""
    return nn.LayerNorm(
        epsilon=epsilon, dtype=dtype, use_fast_variance=False, bias_init=bias_init, scale_init=scale_init, name=name
    )
