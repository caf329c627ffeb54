"""Multi-head attention of queries to other tokens."""

from __future__ import annotations

from functools import partial

import einops
import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from mim_jax.nn import flops
from mim_jax.nn.attend import attend
from mim_jax.nn.init import Init
from mim_jax.nn.rotary import rotate


class CrossAttention(nn.Module):
    """Separate projections of queries, keys and values, attention, output projection (CAE, section 3.2).

    Keys and values are two arguments, because positions may be added to the keys alone.
    qkv_bias: full (a bias for each) | qv (`q_bias` and `v_bias`, none for k) | none. start: see `nn.init`.
    """

    heads: int
    dtype: Dtype = jnp.float32
    qkv_bias: str = "qv"
    start: Init = Init()

    @nn.compact
    def __call__(
        self,
        queries: Float[Array, "B Q D"],
        keys: Float[Array, "B T D"],
        values: Float[Array, "B T D"],
        rotary: tuple[Float[Array, "2 #B Q d"], Float[Array, "2 #B T d"]] | None = None,
    ) -> Float[Array, "B Q D"]:
        """rotary: cosines and sines for the queries and for the keys (`nn.rotary`); None for none."""
        width = queries.shape[-1]
        dense = partial(nn.Dense, width, dtype=self.dtype, kernel_init=self.start.kernel, bias_init=self.start.bias)

        def project(name: str, tokens: Float[Array, "B S D"]) -> Float[Array, "B K S d"]:
            out = dense(use_bias=self.qkv_bias == "full", name=name)(tokens)
            if self.qkv_bias == "qv" and name != "k":
                out = out + self.param(f"{name}_bias", nn.initializers.zeros, (width,)).astype(out.dtype)
            return einops.rearrange(out, "b s (k d) -> b k s d", k=self.heads)

        q, k = project("q", queries), project("k", keys)
        if rotary is not None:
            q, k = rotate(q, rotary[0]), rotate(k, rotary[1])
        out = attend(q, k, project("v", values))
        return dense(name="proj")(einops.rearrange(out, "b k s d -> b s (k d)"))


def cross_attention_flops(queries: int, keys: int, width: int, heads: int) -> float:
    """Forward FLOPs for one image."""
    linear = 2 * flops.dense(queries, width, width) + 2 * flops.dense(keys, width, width)
    return linear + 4 * queries * keys * width + 5 * heads * queries * keys
