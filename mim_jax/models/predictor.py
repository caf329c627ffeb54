"""I-JEPA's context tokens, and its predictor: from them and the positions of a target block to its features."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from mim_jax.masking.multi_block import Blocks, MultiBlock
from mim_jax.models.vit import Vit
from mim_jax.nn import flops
from mim_jax.nn.attend import padding_bias
from mim_jax.nn.block import StackConfig, run_blocks
from mim_jax.nn.init import INITS
from mim_jax.nn.norms import layer_norm
from mim_jax.nn.positions import sincos_2d


class Predictor(nn.Module):
    """Linear map, fixed sin-cos positions, blocks on [context; target tokens], norm, linear map back.

    outputs: values predicted per patch. stochastic: none | code | paper, how noise moves the target positions (StoP):
    code: position + W n + b, where W and b are the linear map of the context, and no mask token; paper: position +
    W n + mask token.
    """

    width: int
    stack: StackConfig
    outputs: int
    grid: tuple[int, int]
    stochastic: str = "none"

    @nn.compact
    def __call__(
        self,
        latent: Float[Array, "B E L D"],
        blocks: Blocks,
        noise: Float[Array, "B K E M D"] | None = None,
    ) -> Float[Array, "R M P"]:
        """Predictions, one row for each image, target block and context block, images outermost: R = B K E.

        latent: encoder's output of every context block. noise: of StoP, already of its deviation. What only fills a
        context up influences nothing; predictions for what only fills a target block up mean nothing.
        """
        dtype, init = self.stack.dtype, INITS[self.stack.init]
        table = jnp.asarray(sincos_2d(self.grid, self.width, prefix=0), dtype)
        embed = nn.Dense(self.width, dtype=dtype, kernel_init=init.kernel, bias_init=init.bias, name="embed")
        batch, contexts, length, _ = latent.shape
        targets, size = blocks.target.shape[1:]

        context = embed(latent) + table[blocks.context]
        tokens = table[blocks.target][:, :, None]
        if self.stochastic != "code":
            tokens = tokens + self.param("mask_token", init.token, (1, 1, self.width)).astype(dtype)
        if noise is not None:
            shift = embed(noise)
            tokens = tokens + (
                shift - embed(jnp.zeros_like(noise[:1, :1, :1, :1])) if self.stochastic == "paper" else shift
            )

        def together(seen, asked, *width):
            shape = (batch, targets, contexts)
            parts = (jnp.broadcast_to(seen, (*shape, length, *width)), jnp.broadcast_to(asked, (*shape, size, *width)))
            return rearrange(jnp.concatenate(parts, axis=3), "b k e t ... -> (b k e) t ...")

        x = together(context[:, None], tokens, self.width)
        valid = together(blocks.context_valid[:, None], blocks.target_valid[:, :, None])
        x, _ = run_blocks(self, self.stack, x, bias=padding_bias(valid))
        x = layer_norm("norm", dtype, self.stack.layer_norm_eps, init.norm_bias)(x[:, length:])
        return nn.Dense(self.outputs, dtype=dtype, kernel_init=init.kernel, bias_init=init.bias, name="head")(x)


def context_tokens(
    encoder: Vit,
    params: Any,
    images: Float[Array, "B H W C"],
    blocks: Blocks,
    noise: Float[Array, "B X 2"] | None = None,
) -> Float[Array, "B E L D"]:
    """The encoder's output for every context block, each of which is an image of its own for the encoder.

    noise: of drop path, one row of all blocks of the encoder after another for each context. What only fills a
    context up is 0.
    """
    contexts = blocks.context.shape[1]
    if noise is not None:
        noise = rearrange(noise, "b (e l) t -> (b e) l t", e=contexts)
    numbers, valid = (rearrange(x, "b e l -> (b e) l") for x in (blocks.context, blocks.context_valid))
    copies = jnp.repeat(images, contexts, axis=0)
    tokens, _ = encoder.apply({"params": params}, copies, numbers, noise=noise, valid=valid)
    return rearrange(jnp.where(valid[..., None], tokens, 0.0), "(b e) l d -> b e l d", e=contexts)


def predictor_flops(predictor: Predictor, masking: MultiBlock) -> float:
    """Forward FLOPs for one image."""
    width, stack, pairs = predictor.width, predictor.stack, masking.context_blocks * masking.target_blocks
    context, target = masking.context_capacity, masking.target_capacity
    embedded = masking.context_blocks * context + (pairs * target if predictor.stochastic != "none" else 0)
    blocks = flops.stack(stack, context + target, width)
    ends = flops.dense(embedded, predictor.outputs, width) + flops.dense(pairs * target, width, predictor.outputs)
    return ends + pairs * blocks
