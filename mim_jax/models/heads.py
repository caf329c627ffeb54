"""Small prediction heads."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from mim_jax.nn.norms import layer_norm


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
