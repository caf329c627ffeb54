"""Outputs of several blocks of an encoder made one (MFF, Liu et al. ICCV 2023, section 3.3)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from mim_jax.nn import flops
from mim_jax.nn.init import XAVIER


class TapFusion(nn.Module):
    """A linear layer for every tap but the last, then their mean with learned weights, a softmax of one number each.

    The numbers are kept as (taps, 1, 1, 1) as in the original, so that they take weight decay as they do there; at the
    start all weights are equal.
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, taps: tuple[Float[Array, "B T D"], ...]) -> tuple[Float[Array, "B T D"], Float[Array, " taps"]]:
        """The fused tokens, float32, and the weights."""
        logits = self.param("weights", nn.initializers.ones, (len(taps), 1, 1, 1))
        weights = jax.nn.softmax(logits.reshape(-1))
        width, fused = taps[0].shape[-1], jnp.zeros(taps[0].shape)
        for i, tap in enumerate(taps):
            if i < len(taps) - 1:
                tap = nn.Dense(width, dtype=self.dtype, kernel_init=XAVIER, name=f"proj_{i}")(tap)
            fused = fused + weights[i] * tap.astype(jnp.float32)
        return fused, weights


def fusion_flops(tokens: int, width: int, taps: int) -> float:
    """Forward FLOPs for one image."""
    return (taps - 1) * flops.dense(tokens, width, width) + 2.0 * taps * tokens * width
