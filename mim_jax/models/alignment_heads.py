"""Features of one width to features of another, for comparing them (DMAE, Bai et al. CVPR 2023)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from mim_jax.nn import flops
from mim_jax.nn.init import fan_in_uniform


class AlignmentHead(nn.Module):
    """A linear layer, or two with a GELU between; they start as PyTorch's layers do."""

    outputs: int
    mlp: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T O"]:
        """float32."""
        names = ("fc1", "fc2") if self.mlp else ("linear",)
        for i, name in enumerate(names):
            bias = fan_in_uniform(x.shape[-1])
            x = jax.nn.gelu(x, approximate=False) if i else x
            x = nn.Dense(self.outputs, dtype=self.dtype, kernel_init=fan_in_uniform(), bias_init=bias, name=name)(x)
        return x.astype(jnp.float32)


def alignment_flops(tokens: int, width_in: int, width: int, kind: str) -> float:
    """Forward FLOPs for one image; kind: linear | mlp | none."""
    linear = flops.dense(tokens, width_in, width) if kind != "none" else 0.0
    return linear + (flops.dense(tokens, width, width) if kind == "mlp" else 0.0)
