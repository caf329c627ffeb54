"""Small prediction heads."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from mim_jax.nn import flops
from mim_jax.nn.init import XAVIER
from mim_jax.nn.mlp import gelu
from mim_jax.nn.norms import layer_norm, standardized


class NormLinear(nn.Module):
    """Layer norm and linear layer on tokens; the norm stands in for the encoder's final one (MaskFeat)."""

    outputs: int
    dtype: Dtype = jnp.float32
    layer_norm_eps: float = 1e-6

    def setup(self):
        self.norm = layer_norm(None, self.dtype, self.layer_norm_eps)
        self.linear = nn.Dense(self.outputs, dtype=self.dtype, kernel_init=nn.initializers.normal(0.02))

    def __call__(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B N V"]:
        """Predictions, float32."""
        return self.linear(self.norm(tokens)).astype(jnp.float32)

    def normed(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        """The tokens after the norm alone."""
        return self.norm(tokens)


class Projector(nn.Module):
    """Three linear layers of `width`, each followed by a norm, the last one without parameters, and the first two by
    GELU; then a linear layer (DMJD's branch of visible patches)."""

    width: int
    outputs: int
    dtype: Dtype = jnp.float32
    layer_norm_eps: float = 1e-6

    @nn.compact
    def __call__(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B N V"]:
        """Predictions, float32."""
        x = tokens
        for i in range(2):
            x = nn.Dense(self.width, dtype=self.dtype, kernel_init=XAVIER, name=f"fc{i + 1}")(x)
            x = gelu(layer_norm(f"norm{i + 1}", self.dtype, self.layer_norm_eps)(x))
        x = nn.Dense(self.width, dtype=self.dtype, kernel_init=XAVIER, name="fc3")(x)
        x = standardized(x, self.layer_norm_eps).astype(self.dtype)
        x = nn.Dense(self.outputs, dtype=self.dtype, kernel_init=XAVIER, name="linear")(x)
        return x.astype(jnp.float32)


def projector_flops(head: Projector, tokens: int, width_in: int) -> float:
    """Forward FLOPs for one image."""
    width = head.width
    linear = flops.dense(tokens, width_in, width) + 2 * flops.dense(tokens, width, width)
    return linear + flops.dense(tokens, width, head.outputs) + 40 * tokens * width
