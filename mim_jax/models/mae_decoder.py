"""MAE's decoder: visible latents and mask tokens in, one prediction per patch out (He et al. 2022, section 3)."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mim_jax.masking.mask import Mask, gather_tokens
from mim_jax.nn import flops
from mim_jax.nn.block import StackConfig, run_blocks
from mim_jax.nn.norms import layer_norm
from mim_jax.nn.positions import sincos_2d


class MaeDecoder(nn.Module):
    """Linear to the decoder's width, mask tokens, sin-cos positions, blocks, norm, linear head."""

    width: int
    stack: StackConfig
    outputs: int

    @nn.compact
    def __call__(self, latent: Float[Array, "B T E"], mask: Mask) -> Float[Array, "B N P"]:
        """Predictions in raster order, float32.

        latent: cls first, then either the patches `mask.visible` in that order, or all patches in raster order.
        """
        dtype, xavier = self.stack.dtype, nn.initializers.xavier_uniform()
        x = nn.Dense(self.width, dtype=dtype, kernel_init=xavier, name="embed")(latent)
        cls, patches = x[:, :1], x[:, 1:]
        if patches.shape[1] < mask.hidden.shape[1]:
            token = self.param("mask_token", nn.initializers.normal(0.02), (1, 1, self.width)).astype(dtype)
            order = jnp.argsort(jnp.concatenate([mask.visible, mask.masked], axis=1), axis=1)
            tokens = jnp.broadcast_to(token, (x.shape[0], mask.masked.shape[1], self.width))
            patches = gather_tokens(jnp.concatenate([patches, tokens], axis=1), order)
        x = jnp.concatenate([cls, patches], axis=1) + jnp.asarray(sincos_2d(mask.grid, self.width), dtype)
        x = layer_norm("norm", dtype, self.stack.layer_norm_eps)(run_blocks(self, self.stack, x)[0])
        return nn.Dense(self.outputs, dtype=dtype, kernel_init=xavier, name="head")(x)[:, 1:].astype(jnp.float32)


def mae_decoder_flops(visible: int, tokens: int, width_in: int, width: int, stack: StackConfig, outputs: int) -> float:
    """Forward FLOPs for one image; the cls token passes everything."""
    embed = flops.dense(visible + 1, width_in, width)
    blocks = flops.stack(stack, tokens + 1, width)
    return embed + blocks + flops.dense(tokens + 1, width, outputs)
