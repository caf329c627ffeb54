"""Projector and predictor of BYOL's family: linear layers without bias, batch norm and an activation between them."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from mim_jax.models.projection_head import ACTIVATIONS
from mim_jax.nn import flops
from mim_jax.nn.init import XAVIER
from mim_jax.nn.sparse import BatchNorm


class BatchNormHead(nn.Module):
    """`depth` linear layers; nothing behind the last one. Its outputs are as wide as its inputs; depth 0 does nothing.

    running: batch norm by the running statistics instead of the batch's. Where `batch_stats` is mutable it holds on
    return the moments of this batch (`nn.sparse.BatchNorm`).
    """

    depth: int
    hidden: int
    batch_norm: bool = True
    activation: str = "relu"
    running: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B D"]:
        """float32."""
        width = x.shape[-1]
        for i in range(self.depth):
            last = i == self.depth - 1
            features = width if last else self.hidden
            x = nn.Dense(features, use_bias=False, dtype=self.dtype, kernel_init=XAVIER, name=f"linear_{i}")(x)
            if not last:
                if self.batch_norm:
                    norm = BatchNorm(self.running, self.dtype, name=f"norm_{i}")
                    x = norm(x[:, None, None])[:, 0, 0]
                x = ACTIVATIONS[self.activation](x)
        return x.astype(jnp.float32)


def batch_norm_head_flops(width: int, hidden: int, depth: int) -> float:
    """Forward FLOPs for one vector."""
    sides = [width, *[hidden] * (depth - 1), width] if depth else []
    return sum(flops.dense(1, a, b) - b for a, b in zip(sides, sides[1:], strict=False))
