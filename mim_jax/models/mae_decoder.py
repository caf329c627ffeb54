"""MAE's decoder: visible latents and mask tokens in, one prediction per patch out (He et al. 2022, section 3)."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from mim_jax.masking.mask import Mask, gather_tokens
from mim_jax.nn import flops
from mim_jax.nn.block import StackConfig, run_blocks
from mim_jax.nn.init import XAVIER
from mim_jax.nn.norms import layer_norm
from mim_jax.nn.positions import sincos_2d


def decoder_tokens(
    parent: nn.Module,
    latent: Float[Array, "B T E"],
    mask: Mask,
    width: int,
    dtype: Dtype = jnp.float32,
    row_first: bool = False,
    prefix: int = 1,
) -> Float[Array, "B S W"]:
    """What a decoder's blocks see: cls, then every patch in raster order, mask tokens where one is hidden.

    A linear layer to the decoder's width and the fixed table of positions are part of it. Called inside the compact
    call of `parent`, whose parameters are `embed` and, where patches are missing, `mask_token`.

    latent: cls first, then either the patches `mask.visible` in that order, or all patches in raster order.
    row_first: order of the halves of the position table (`nn.positions`). prefix: 0 where there is no cls.
    """
    x = nn.Dense(width, dtype=dtype, kernel_init=XAVIER, name="embed")(latent)
    cls, patches = x[:, :prefix], x[:, prefix:]
    if patches.shape[1] < mask.hidden.shape[1]:
        patches = with_mask_tokens(parent, patches, mask)
    table = sincos_2d(mask.grid, width, prefix, row_first)
    return jnp.concatenate([cls, patches], axis=1) + jnp.asarray(table, dtype)


def with_mask_tokens(parent: nn.Module, visible: Float[Array, "B V W"], mask: Mask) -> Float[Array, "B N W"]:
    """Every patch in raster order, the parameter `mask_token` of `parent` where one is hidden."""
    batch, _, width = visible.shape
    token = parent.param("mask_token", nn.initializers.normal(0.02), (1, 1, width)).astype(visible.dtype)
    order = jnp.argsort(jnp.concatenate([mask.visible, mask.masked], axis=1), axis=1)
    tokens = jnp.broadcast_to(token, (batch, mask.masked.shape[1], width))
    return gather_tokens(jnp.concatenate([visible, tokens], axis=1), order)


def decoder_output(
    parent: nn.Module,
    stack: StackConfig,
    outputs: int,
    x: Float[Array, "B S W"],
    noise: Float[Array, "B L 2"] | None = None,
    first: int = 1,
) -> Float[Array, "B N P"]:
    """Blocks, norm and a linear head: `outputs` values for every token from number `first` on, float32.

    For `parent` see above; noise: of drop path.
    """
    x, _ = run_blocks(parent, stack, x, noise)
    x = layer_norm("norm", stack.dtype, stack.layer_norm_eps)(x)
    x = nn.Dense(outputs, dtype=stack.dtype, kernel_init=XAVIER, name="head")(x)
    return x[:, first:].astype(jnp.float32)


class MaeDecoder(nn.Module):
    """Linear to the decoder's width, mask tokens, sin-cos positions, blocks, norm, linear head."""

    width: int
    stack: StackConfig
    outputs: int
    row_first: bool = False
    prefix: int = 1
    predict_cls: bool = False

    @nn.compact
    def __call__(
        self, latent: Float[Array, "B T E"], mask: Mask, noise: Float[Array, "B L 2"] | None = None
    ) -> Float[Array, "B S P"]:
        """Predictions in raster order, float32, before them that of cls where `predict_cls` says so.

        latent: see `decoder_tokens`. noise: of drop path.
        """
        x = decoder_tokens(self, latent, mask, self.width, self.stack.dtype, self.row_first, self.prefix)
        return decoder_output(self, self.stack, self.outputs, x, noise, 0 if self.predict_cls else self.prefix)


def mae_decoder_flops(
    visible: int, tokens: int, width_in: int, width: int, stack: StackConfig, outputs: int, prefix: int = 1
) -> float:
    """Forward FLOPs for one image; the cls token, where there is one, passes everything."""
    embed = flops.dense(visible + prefix, width_in, width)
    blocks = flops.stack(stack, tokens + prefix, width)
    return embed + blocks + flops.dense(tokens + prefix, width, outputs)
