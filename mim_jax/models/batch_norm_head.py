"""Projector and predictor of BYOL's family and of MSN: linear layers, batch norm and an activation between them."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from mim_jax.models.projection_head import ACTIVATIONS
from mim_jax.nn import flops
from mim_jax.nn.init import XAVIER, Initializer
from mim_jax.nn.sparse import BatchNorm


class BatchNormHead(nn.Module):
    """`depth` linear layers; nothing behind the last one. depth 0 does nothing.

    outputs: width of what it returns; 0: as wide as its inputs. bias: of the linear layers.
    running: batch norm by the running statistics instead of the batch's. Where `batch_stats` is mutable it holds on
    return the moments of this batch (`nn.sparse.BatchNorm`).
    """

    depth: int
    hidden: int
    batch_norm: bool = True
    activation: str = "relu"
    running: bool = False
    dtype: Dtype = jnp.float32
    outputs: int = 0
    bias: bool = False
    start: Initializer = XAVIER

    @nn.compact
    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B E"]:
        """float32."""
        outputs = self.outputs or x.shape[-1]
        for i in range(self.depth):
            last = i == self.depth - 1
            dense = partial(nn.Dense, use_bias=self.bias, dtype=self.dtype, kernel_init=self.start)
            x = dense(outputs if last else self.hidden, name=f"linear_{i}")(x)
            if not last:
                if self.batch_norm:
                    norm = BatchNorm(self.running, self.dtype, name=f"norm_{i}")
                    x = norm(x[:, None, None])[:, 0, 0]
                x = ACTIVATIONS[self.activation](x)
        return x.astype(jnp.float32)


def batch_norm_head_flops(width: int, hidden: int, depth: int, outputs: int = 0, bias: bool = False) -> float:
    """Forward FLOPs for one vector."""
    sides = [width, *[hidden] * (depth - 1), outputs or width] if depth else []
    return sum(flops.dense(1, a, b) - (0 if bias else b) for a, b in zip(sides, sides[1:], strict=False))
