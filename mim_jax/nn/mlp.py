"""The two-layer perceptron of a transformer block."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float


class Mlp(nn.Module):
    """Linear, exact (erf) GELU, linear."""

    hidden: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform())
        hidden = dense(self.hidden, name="fc1")(x)
        return dense(x.shape[-1], name="fc2")(jax.nn.gelu(hidden, approximate=False))
