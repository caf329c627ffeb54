"""MultiMAE's encoder of several modalities and its decoders, one for each output (Bachmann et al. 2022, section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mim_jax.masking.mask import gather_tokens
from mim_jax.masking.multimodal import MultimodalMask
from mim_jax.models.modalities import Modality, Task
from mim_jax.models.vit import fixed_positions
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn import flops
from mim_jax.nn.block import StackConfig, run_blocks
from mim_jax.nn.cross_attention import CrossAttention, cross_attention_flops
from mim_jax.nn.init import INITS, NORMAL, XAVIER
from mim_jax.nn.mlp import Mlp
from mim_jax.nn.norms import layer_norm
from mim_jax.nn.patches import PatchEmbed, patchify
from mim_jax.nn.positions import sincos_2d


class MultimodalEncoder(nn.Module):
    """An embedding of patches for each modality, one table of positions for all, global tokens at the end, blocks.

    There is no norm at the end. Modalities that are not given are left out, as in evaluation.
    """

    config: VitConfig
    modalities: tuple[tuple[str, Modality], ...]
    global_tokens: int = 1

    @nn.compact
    def __call__(
        self,
        inputs: Mapping[str, Any],
        mask: MultimodalMask | None = None,
        noise: Float[Array, "B L 2"] | None = None,
        layers: bool = False,
    ) -> tuple[Float[Array, "B T D"], tuple[Float[Array, "B T D"], ...]]:
        """Visible tokens in the mask's order (or all, one modality behind the other), then the global ones.

        inputs: (B, h, w, c) pixels or (B, h, w) labels by modality. noise: of drop path.
        """
        c, init, tokens = self.config, INITS[self.config.init], []
        for name, modality in self.modalities:
            if name not in inputs:
                continue
            values = inputs[name]
            if modality.classes:
                embedding = self.param(f"class_embed_{name}", NORMAL, (modality.classes, modality.embedding))
                values = embedding[values]
            side = modality.side(c.patch_size)
            table = fixed_positions(c, (values.shape[1] // side[0], values.shape[2] // side[1]))
            embed = PatchEmbed(c.width, c.dtype, init, name=f"patch_embed_{name}")
            tokens.append(embed(patchify(values, side)) + jnp.asarray(table, c.dtype))
        x = jnp.concatenate(tokens, axis=1)
        x = x if mask is None else gather_tokens(x, mask.visible)
        everywhere = self.param("global_tokens", NORMAL, (1, self.global_tokens, c.width)).astype(x.dtype)
        x = jnp.concatenate([x, jnp.broadcast_to(everywhere, (x.shape[0], *everywhere.shape[1:]))], axis=1)
        return run_blocks(self, c.stack, x, noise, layers)


def global_first(tokens: Float[Array, "B T D"], count: int) -> Float[Array, "B S D"]:
    """The first of `count` global tokens, which stand at the end, and then the others."""
    split = tokens.shape[1] - count
    return jnp.concatenate([tokens[:, split : split + 1], tokens[:, :split]], axis=1)


class MultimodalDecoder(nn.Module):
    """Queries of one modality look at all visible tokens, a perceptron, a few blocks, a linear head.

    own: number of the modality among the inputs; None where it is not one of them. own_tokens: visible tokens of that
    modality are their own queries (else all queries are mask tokens). Around the cross-attention there is no residual,
    and behind the blocks no norm, as in the original.
    """

    width: int
    stack: StackConfig
    outputs: int
    inputs: tuple[str, ...]
    own: int | None = None
    own_tokens: bool = True
    global_tokens: int = 1

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "B T E"], mask: MultimodalMask, table: Float[Array, "N W"]
    ) -> Float[Array, "B N P"]:
        """Predictions in raster order, float32.

        tokens: what leaves the encoder. table: the decoder's positions.
        """
        c, count, size = self.stack, len(table), len(tokens)
        x = nn.Dense(self.width, dtype=c.dtype, kernel_init=XAVIER, name="embed")(tokens)
        seen, everywhere = x[:, : -self.global_tokens], x[:, -self.global_tokens :]
        hole = self.param("mask_token", nn.initializers.zeros, (1, 1, self.width)).astype(c.dtype)
        kinds = [self.param(f"modality_{name}", NORMAL, (1, 1, self.width)).astype(c.dtype) for name in self.inputs]
        places = jnp.concatenate([kind + table.astype(c.dtype) for kind in kinds], axis=1)
        holes = jnp.broadcast_to(hole, (size, mask.restore.shape[1] - seen.shape[1], self.width))
        whole = gather_tokens(jnp.concatenate([seen, holes], axis=1), mask.restore) + places
        context = jnp.concatenate([gather_tokens(whole, mask.visible), everywhere], axis=1)
        if self.own is not None and self.own_tokens:
            queries = whole[:, self.own * count : (self.own + 1) * count]
        else:
            kind = 0 if self.own is None else kinds[self.own]
            queries = jnp.broadcast_to(hole + kind + table.astype(c.dtype), (size, count, self.width))

        def norm(name: str):
            return layer_norm(name, c.dtype, c.layer_norm_eps)

        context = norm("norm_context")(context)
        x = CrossAttention(c.heads, c.dtype, "full", name="cross_attn")(norm("norm_query")(queries), context, context)
        x = x + Mlp(int(self.width * c.mlp_ratio), c.dtype, name="mlp")(norm("norm_out")(x))
        x, _ = run_blocks(self, c, x)
        return nn.Dense(self.outputs, dtype=c.dtype, kernel_init=XAVIER, name="head")(x).astype(jnp.float32)


def decoders_of(tasks: Mapping[str, Task], patch_size: tuple[int, int], **shared: Any) -> dict[str, MultimodalDecoder]:
    """A decoder for each output; shared: their further fields."""
    return {
        name: MultimodalDecoder(outputs=task.modality.outputs(patch_size), own=task.own, **shared)
        for name, task in tasks.items()
    }


def decoder_positions(config: VitConfig, width: int) -> Float[Array, "N W"]:
    """The decoders' table, its halves in the encoder's order."""
    return jnp.asarray(sincos_2d(config.grid, width, prefix=0, row_first=True))


def multimae_flops(encoder: MultimodalEncoder, decoders: Mapping[str, MultimodalDecoder], visible: int) -> float:
    """Forward FLOPs for one image; all tokens are embedded."""
    c, total = encoder.config, 0.0
    for _, modality in encoder.modalities:
        side = modality.side(c.patch_size)
        values = side[0] * side[1] * (modality.embedding if modality.classes else modality.channels)
        total += flops.dense(c.tokens, values, c.width)
    total += flops.stack(c.stack, visible + encoder.global_tokens, c.width)
    return total + sum(decoder_flops(decoder, c.tokens, visible, c.width) for decoder in decoders.values())


def decoder_flops(decoder: MultimodalDecoder, tokens: int, visible: int, width_in: int) -> float:
    """Forward FLOPs for one image of `tokens` patches."""
    width, c, context = decoder.width, decoder.stack, visible + decoder.global_tokens
    hidden = int(width * c.mlp_ratio)
    total = flops.dense(context, width_in, width) + cross_attention_flops(tokens, context, width, c.heads)
    total += flops.dense(tokens, width, hidden) + flops.dense(tokens, hidden, width)
    total += 16 * tokens * width + 8 * context * width + 8 * tokens * hidden
    return total + flops.stack(c, tokens, width) + flops.dense(tokens, width, decoder.outputs)
