"""The two-layer perceptron of a transformer block."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from mim_jax.nn.init import Init, scaled


class Mlp(nn.Module):
    """Linear, exact (erf) GELU, linear. fc2_scale: multiplies the second matrix at the start."""

    hidden: int
    dtype: Dtype = jnp.float32
    start: Init = Init()
    fc2_scale: float = 1.0

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        dense = partial(nn.Dense, dtype=self.dtype, bias_init=self.start.bias)
        hidden = jax.nn.gelu(dense(self.hidden, kernel_init=self.start.kernel, name="fc1")(x), approximate=False)
        return dense(x.shape[-1], kernel_init=scaled(self.start.kernel, self.fc2_scale), name="fc2")(hidden)
