"""Multi-head self-attention."""

from __future__ import annotations

from functools import partial

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float


def attend(
    q: Float[Array, "B K Q d"],
    k: Float[Array, "B K T d"],
    v: Float[Array, "B K T d"],
    bias: Float[Array, "#B K Q T"] | None = None,
) -> Float[Array, "B K Q d"]:
    """softmax(q k' / sqrt(d) + bias) v per head; logits and softmax in float32.

    Head-major on purpose: two batched matrix products with contiguous operands and one softmax in place, which XLA
    compiles to far fewer passes on a CPU than the generic attention of jax.nn, and to the same fusion on a TPU.
    """
    scale = q.shape[-1] ** -0.5
    logits = jnp.einsum("bkqd,bktd->bkqt", q * scale, k, preferred_element_type=jnp.float32)
    if bias is not None:
        logits = logits + bias
    return jnp.einsum("bkqt,bktd->bkqd", jax.nn.softmax(logits, axis=-1).astype(v.dtype), v)


class SelfAttention(nn.Module):
    """Fused qkv projection with bias, attention, output projection (ViT; Xavier-uniform on the fused matrix)."""

    heads: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], bias: Float[Array, "#B K T T"] | None = None) -> Float[Array, "B T D"]:
        width = x.shape[-1]
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform())
        qkv = dense(3 * width, name="qkv")(x)
        q, k, v = einops.rearrange(qkv, "b t (three k d) -> three b k t d", three=3, k=self.heads)
        out = einops.rearrange(attend(q, k, v, bias), "b k t d -> b t (k d)")
        return dense(width, name="proj")(out)
