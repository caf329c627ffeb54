"""Multi-head self-attention."""

from __future__ import annotations

from functools import partial

import einops
import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from mim_jax.nn.attend import attend, attention_weights
from mim_jax.nn.heads_dense import HeadsDense, bias_of_heads, heads_are_split
from mim_jax.nn.init import Init, Initializer, scaled
from mim_jax.nn.norms import layer_norm
from mim_jax.nn.relative import RelativeBias
from mim_jax.nn.rotary import rotate
from mim_jax.nn.row_attention import row_attention, serves


class SelfAttention(nn.Module):
    """Fused qkv projection, attention, output projection.

    qkv_bias: full (one bias for q, k and v) | qv (separate `q_bias` and `v_bias`, none for k: BEiT) | none.
    relative_grid: grid of a relative position bias of its own; None for none. start: see `nn.init`.
    proj_scale: multiplies the output matrix at the start. qkv_start: of the fused matrix where it starts otherwise.
    norm_epsilon: of a layer norm before the output projection (EVA-CLIP); 0 for none.
    """

    heads: int
    dtype: Dtype = jnp.float32
    qkv_bias: str = "full"
    relative_grid: tuple[int, int] | None = None
    start: Init = Init()
    proj_scale: float = 1.0
    norm_epsilon: float = 0.0
    qkv_start: Initializer | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        bias: Float[Array, "#B #K #T T"] | None = None,
        rotary: Float[Array, "2 #B T d"] | None = None,
    ) -> Float[Array, "B T D"]:
        """rotary: cosines and sines for queries and keys (`nn.rotary`); None for none."""
        width = x.shape[-1]
        dense = partial(nn.Dense, dtype=self.dtype, bias_init=self.start.bias)
        looked_at = self.is_mutable_collection("intermediates")  # by somebody (`models.attention_map`)
        plain = bias is None and rotary is None and self.relative_grid is None and not looked_at
        if heads_are_split(self.heads):
            out = self._attend(self._split_heads(x), bias, rotary, looked_at)
        else:
            qkv = self._project(x)
            # Split first: the gradient is then put together by one concatenation, not by adding three padded arrays.
            parts = [einops.rearrange(p, "b t (k d) -> b k t d", k=self.heads) for p in jnp.split(qkv, 3, axis=-1)]
            fused = plain and serves(qkv, self.heads)
            out = row_attention(qkv, self.heads) if fused else self._attend(parts, bias, rotary, looked_at)
        if self.norm_epsilon:
            out = layer_norm("norm", self.dtype, self.norm_epsilon, self.start.norm_bias)(out)
        return dense(width, kernel_init=scaled(self.start.kernel, self.proj_scale), name="proj")(out)

    def _project(self, x) -> Float[Array, "B T E"]:
        """q, k and v side by side."""
        kernel = self.qkv_start or self.start.kernel
        dense = partial(nn.Dense, dtype=self.dtype, bias_init=self.start.bias, use_bias=self.qkv_bias == "full")
        qkv = dense(3 * x.shape[-1], kernel_init=kernel, name="qkv")(x)
        return qkv + self._bias(x.shape[-1]).astype(qkv.dtype) if self.qkv_bias == "qv" else qkv

    def _split_heads(self, x) -> Float[Array, "3 B K T d"]:
        """q, k and v by head, the heads on the devices that attend with them."""
        kernel = self.qkv_start or self.start.kernel
        full = self.qkv_bias == "full"
        qkv = HeadsDense(3, self.heads, kernel, self.start.bias, full, self.dtype, name="qkv")(x)
        if self.qkv_bias != "qv":
            return qkv
        return qkv + bias_of_heads(self._bias(x.shape[-1]).astype(qkv.dtype), 3, self.heads)

    def _bias(self, width: int) -> Float[Array, " E"]:
        q_bias, v_bias = (self.param(name, nn.initializers.zeros, (width,)) for name in ("q_bias", "v_bias"))
        return jnp.concatenate([q_bias, jnp.zeros(width), v_bias])

    def _attend(self, heads, bias, rotary, looked_at: bool) -> Float[Array, "B T D"]:
        """heads: q, k and v by head."""
        q, k, v = heads
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        if self.relative_grid is not None:
            cls_token = q.shape[2] > self.relative_grid[0] * self.relative_grid[1]
            own = RelativeBias(self.heads, self.relative_grid, cls_token, name="relative_bias")()
            bias = own if bias is None else bias + own
        if looked_at:
            self.sow("intermediates", "weights", attention_weights(q, k, bias))
        return einops.rearrange(attend(q, k, v, bias), "b k t d -> b t (k d)")
