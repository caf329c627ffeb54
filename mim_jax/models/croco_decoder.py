"""CroCo's decoder: completes one view while it looks at another (Weinzaepfel et al. NeurIPS 2022, section 3)."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mim_jax.masking.mask import Mask
from mim_jax.models.mae_decoder import with_mask_tokens
from mim_jax.nn import flops
from mim_jax.nn.attention import SelfAttention
from mim_jax.nn.block import REMAT_POLICIES, StackConfig
from mim_jax.nn.cross_attention import CrossAttention, cross_attention_flops
from mim_jax.nn.init import XAVIER
from mim_jax.nn.materialize import materialized
from mim_jax.nn.mlp import Mlp
from mim_jax.nn.norms import layer_norm
from mim_jax.nn.positions import sincos_2d
from mim_jax.nn.rotary import rotary_table


class CrossBlock(nn.Module):
    """x + attention(norm(x)), then x + attention of norm(x) to norm(other), then x + perceptron(norm(x)).

    norm_other: whether the other view, which no block changes, is normalised anew in every block.
    """

    config: StackConfig
    norm_other: bool = True

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N D"], other: Float[Array, "B N D"], rotary: Float[Array, "2 1 N d"] | None = None
    ) -> Float[Array, "B N D"]:
        c = self.config
        norm = partial(layer_norm, dtype=c.dtype, epsilon=c.layer_norm_eps)
        x = materialized(x + SelfAttention(c.heads, c.dtype, name="attn")(norm("norm1")(x), rotary=rotary))
        memory = norm("norm_other")(other) if self.norm_other else other
        both = None if rotary is None else (rotary, rotary)
        attention = CrossAttention(c.heads, c.dtype, "full", name="cross_attn")
        x = materialized(x + attention(norm("norm2")(x), memory, memory, both))
        mlp = Mlp(int(x.shape[-1] * c.mlp_ratio), c.dtype, name="mlp")
        return materialized(x + mlp(norm("norm3")(x)))


class CrocoDecoder(nn.Module):
    """One linear layer for both views, mask tokens in the first, positions, cross blocks, norm, linear head.

    rope_base: of rotary positions in all attention; 0 adds the fixed table to both views instead.
    """

    width: int
    stack: StackConfig
    outputs: int
    rope_base: int | float = 0.0
    norm_other: bool = True

    @nn.compact
    def __call__(
        self, latent: Float[Array, "B V E"], other: Float[Array, "B N E"], mask: Mask
    ) -> Float[Array, "B N P"]:
        """Predictions of the first view in raster order, float32.

        latent: of the patches `mask.visible` of the first view, in that order; other: of all of the second.
        """
        c = self.stack
        dense = partial(nn.Dense, dtype=c.dtype, kernel_init=XAVIER)
        embed = dense(self.width, name="embed")
        x, other = with_mask_tokens(self, embed(latent), mask), embed(other)
        rotary = None
        if self.rope_base:
            rotary = jnp.asarray(rotary_table(mask.grid, self.width // c.heads, base=float(self.rope_base)))[:, None]
        else:
            table = jnp.asarray(sincos_2d(mask.grid, self.width, prefix=0), c.dtype)
            x, other = x + table, other + table
        policy = REMAT_POLICIES[c.remat]
        block = CrossBlock if policy is None else nn.remat(CrossBlock, policy=policy)
        for i in range(c.depth):
            x = block(c, self.norm_other, name=f"blocks_{i}")(x, other, rotary)
        x = layer_norm("norm", c.dtype, c.layer_norm_eps)(x)
        self.sow("intermediates", "features", x)  # kept where somebody looks (reference cases)
        return dense(self.outputs, name="head")(x).astype(jnp.float32)


def croco_decoder_flops(decoder: CrocoDecoder, visible: int, tokens: int, width_in: int) -> float:
    """Forward FLOPs for one pair."""
    width, c = decoder.width, decoder.stack
    embed = flops.dense(visible + tokens, width_in, width)
    block = flops.block(tokens, width, c.heads, c.mlp_ratio) + cross_attention_flops(tokens, tokens, width, c.heads)
    block += 8 * tokens * width * (1 + decoder.norm_other) + (16 * tokens * width if decoder.rope_base else 0)
    return embed + c.depth * block + flops.dense(tokens, width, decoder.outputs)
