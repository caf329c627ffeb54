"""CAE's latent contextual regressor, its decoder, and how they stand together (Chen et al. 2022, section 3)."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mim_jax.errors import ConfigError
from mim_jax.masking.mask import Mask, gather_tokens
from mim_jax.models.vit import Vit, vit_flops
from mim_jax.models.vit_config import VitConfig, check_heads
from mim_jax.nn import flops
from mim_jax.nn.block import REMAT_POLICIES, StackConfig, run_blocks
from mim_jax.nn.cross_attention import CrossAttention, cross_attention_flops
from mim_jax.nn.drop_path import drop_path, drop_path_noise, drop_path_rates
from mim_jax.nn.init import INITS
from mim_jax.nn.mlp import Mlp
from mim_jax.nn.norms import layer_norm
from mim_jax.nn.positions import sincos_2d
from mim_jax.nn.target import split_batch


def mask_positions(
    mask: Mask, width: int, by_column: bool = False
) -> tuple[Float[Array, "B V D"], Float[Array, "B M D"]]:
    """Rows of the fixed sin-cos table (row half first) of the visible and of the hidden patches.

    by_column: the patches are numbered column by column, as in CAE's code; the same on squares.
    """
    grid = mask.grid[::-1] if by_column else mask.grid
    table = jnp.asarray(sincos_2d(grid, width, prefix=0, row_first=True))
    table = jnp.broadcast_to(table, (len(mask.hidden), *table.shape))
    return gather_tokens(table, mask.visible), gather_tokens(table, mask.masked)


class Projection(nn.Module):
    """Linear and norm: from the encoder's width to another one of the regressor."""

    width: int
    stack: StackConfig

    @nn.compact
    def __call__(self, tokens: Float[Array, "B T E"]) -> Float[Array, "B T D"]:
        init = INITS[self.stack.init]
        dense = nn.Dense(self.width, dtype=self.stack.dtype, kernel_init=init.kernel, bias_init=init.bias, name="dense")
        norm = layer_norm("norm", self.stack.dtype, self.stack.layer_norm_eps, init.norm_bias)
        return norm(dense(tokens))


class RegressorBlock(nn.Module):
    """Cross-attention of the hidden patches' queries, then a perceptron whose input IS the normalised stream.

    Pitfall: unlike a pre-norm block, `x = norm2(x)` replaces the residual stream itself.
    """

    config: StackConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B M D"],
        context: Float[Array, "B T D"],
        positions: Float[Array, "B M D"],
        context_positions: Float[Array, "B T D"],
        noise: Float[Array, "B 2"] | None = None,
        rate: float | Float[Array, ""] = 0.0,
    ) -> Float[Array, "B M D"]:
        c, width, init = self.config, x.shape[-1], INITS[self.config.init]
        norm = partial(layer_norm, dtype=c.dtype, epsilon=c.layer_norm_eps, bias_init=init.norm_bias)

        def branch(out, index):
            if c.layer_scale:
                gamma = self.param(f"gamma_{index + 1}", nn.initializers.constant(c.layer_scale), (width,))
                out = out * gamma.astype(out.dtype)
            return drop_path(out, None if noise is None else noise[:, index], rate)

        attention = CrossAttention(c.heads, c.dtype, c.qkv_bias, init, name="attn")
        queries, keys = norm("norm1_q")(x + positions), norm("norm1_k")(context + context_positions)
        x = x + branch(attention(queries, keys, norm("norm1_v")(context)), 0)
        x = norm("norm2")(x)
        return split_batch(x + branch(Mlp(int(width * c.mlp_ratio), c.dtype, init, name="mlp")(x), 1))


class LatentRegressor(nn.Module):
    """Predicts the encoder's features of the hidden patches from those of the visible ones.

    Pitfall: the paper draws keys and values as the visible features; the code appends the current queries to them in
    every block, and so does this unless `feed_queries` is False. final_norm: False in CAE v2.
    """

    stack: StackConfig
    feed_queries: bool = True
    final_norm: bool = True
    by_column: bool = False

    @nn.compact
    def __call__(
        self, visible: Float[Array, "B V D"], mask: Mask, noise: Float[Array, "B L 2"] | None = None
    ) -> Float[Array, "B M D"]:
        """Features of `mask.masked`, in that order. visible: features of `mask.visible`, without cls."""
        c, (batch, _, width), init = self.stack, visible.shape, INITS[self.stack.init]
        token = self.param("mask_token", init.mask_token or init.token, (1, 1, width))
        seen, hidden = (rows.astype(c.dtype) for rows in mask_positions(mask, width, self.by_column))
        x = jnp.broadcast_to(token.astype(c.dtype), (batch, hidden.shape[1], width))
        context_positions = jnp.concatenate([seen, hidden], axis=1) if self.feed_queries else seen
        rates = drop_path_rates(c.drop_path_rate, c.depth)
        block = RegressorBlock
        if c.remat != "none":
            block = nn.remat(RegressorBlock, policy=REMAT_POLICIES[c.remat])
        for i in range(c.depth):
            context = jnp.concatenate([visible, x], axis=1) if self.feed_queries else visible
            here = noise[:, i] if noise is not None and c.drop_path_rate > 0 else None
            x = block(c, name=f"blocks_{i}")(x, context, hidden, context_positions, here, float(rates[i]))
        return layer_norm("norm", c.dtype, c.layer_norm_eps, init.norm_bias)(x) if self.final_norm else x


class CaeDecoder(nn.Module):
    """Norm and linear head, after blocks on the predicted features of the hidden patches; float32.

    With depth 0 (CAE v2) no positions are added and any tokens may come in.
    """

    stack: StackConfig
    outputs: int
    by_column: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "B M D"], mask: Mask | None = None, noise: Float[Array, "B L 2"] | None = None
    ) -> Float[Array, "B M O"]:
        """One row per token; with blocks, `x` holds the patches `mask.masked` in that order."""
        c, init = self.stack, INITS[self.stack.init]
        if c.depth:
            assert mask is not None, "the blocks need to know where their tokens are"
            positions = mask_positions(mask, x.shape[-1], self.by_column)[1]
            x, _ = run_blocks(self, c, x + positions.astype(x.dtype), noise)
        x = layer_norm("norm", c.dtype, c.layer_norm_eps, init.norm_bias)(x)
        head = nn.Dense(self.outputs, dtype=c.dtype, kernel_init=init.kernel, bias_init=init.bias, name="head")
        return head(x).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class ContextAutoencoder:
    """The modules of CAE and CAE v2 with their sizes: encoder, projection where widths differ, regressor, decoder.

    width, heads, layer_scale: of regressor and decoder. decoder_depth 0: CAE v2, whose regressor has no final norm.
    """

    encoder: VitConfig
    width: int
    heads: int
    layer_scale: float
    regressor_depth: int
    decoder_depth: int
    outputs: int
    feed_queries: bool = True

    def check(self) -> None:
        """Refuses impossible sizes.

        Raises:
            ConfigError: names the key of the section `method` or `model`, the value and what serves.
        """
        check_heads(self.width, self.heads, "method", "decoder_")
        if self.width % 4:
            raise ConfigError(
                f"method.decoder_width {self.width} must be a multiple of 4; try {self.width // 4 * 4 + 4}"
            )
        if self.regressor_depth < 1 or self.decoder_depth < 0 or self.layer_scale < 0:
            raise ConfigError(
                f"method.regressor_depth {self.regressor_depth} must be at least 1, and method.decoder_depth "
                f"{self.decoder_depth} and method.decoder_layer_scale {self.layer_scale} at least 0"
            )
        if self.encoder.relative_bias != "none":
            raise ConfigError(
                f"model.relative_bias '{self.encoder.relative_bias}' needs all patches, but this encoder sees the "
                "visible ones alone; it must be 'none' (fine-tuning can add tables)"
            )

    def stack(self, depth: int) -> StackConfig:
        own = self.encoder.stack
        return dataclasses.replace(own, depth=depth, heads=self.heads, layer_scale=self.layer_scale)

    def modules(self) -> dict[str, Any]:
        made: dict[str, Any] = {"encoder": Vit(self.encoder)}
        if self.width != self.encoder.width:
            made["projection"] = Projection(self.width, self.encoder.stack)
        by_column = self.encoder.positions == "sincos_cae"
        regressor, decoder = self.stack(self.regressor_depth), self.stack(self.decoder_depth)
        made["regressor"] = LatentRegressor(regressor, self.feed_queries, self.decoder_depth > 0, by_column)
        made["decoder"] = CaeDecoder(decoder, self.outputs, by_column)
        return made

    def init(self, key: PRNGKeyArray, images: Float[Array, "B H W C"], mask: Mask) -> dict[str, Any]:
        """Parameters by module; `mask` fixes how many patches are hidden."""
        visible, hidden = (jnp.zeros((1, rows.shape[1], self.width)) for rows in (mask.visible, mask.masked))
        mask = jax.tree.map(lambda rows: rows[:1], mask)
        inputs = {"encoder": (images[:1],), "regressor": (visible, mask), "decoder": (hidden, mask)}
        inputs["projection"] = (jnp.zeros((1, 1, self.encoder.width)),)
        keys = jax.random.split(key, 4)
        return {n: m.init(k, *inputs[n])["params"] for k, (n, m) in zip(keys, self.modules().items(), strict=False)}

    def noise(self, key: PRNGKeyArray, batch: int) -> dict[str, Float[Array, "B _ 2"] | None]:
        """What drives drop path: of the encoder, of its pass over the hidden patches, of regressor and decoder."""
        depth = self.encoder.depth
        depths = dict(encoder=depth, target=depth, regressor=self.regressor_depth, decoder=self.decoder_depth)
        keys = jax.random.split(key, len(depths))
        rate = self.encoder.drop_path_rate
        return {n: drop_path_noise(k, batch, d, rate) for k, (n, d) in zip(keys, depths.items(), strict=True)}

    def encode(
        self, params: Any, images: Float[Array, "B H W C"], patches: Int[Array, "B V"], noise: Any
    ) -> tuple[Float[Array, "B T E"], Float[Array, "B T D"]]:
        """The encoder's tokens on some patches (cls first), and the same as the regressor takes them."""
        modules = self.modules()
        latent, _ = modules["encoder"].apply({"params": params["encoder"]}, images, patches, noise=noise)
        if "projection" not in modules:
            return latent, latent
        return latent, modules["projection"].apply({"params": params["projection"]}, latent)

    def flops(self, visible: int, hidden: int) -> tuple[float, float]:
        """Forward FLOPs for one image: of all that is trained, and of the encoder's pass over the hidden patches."""
        width, prefix, own = self.width, self.encoder.prefix, self.encoder.width
        project = flops.dense(1, own, width) + 8 * width if width != own else 0.0
        regress = regressor_flops(visible, hidden, width, self.stack(self.regressor_depth), self.feed_queries)
        tokens = hidden if self.decoder_depth else prefix + visible + hidden
        decode = decoder_flops(tokens, width, self.stack(self.decoder_depth), self.outputs)
        encode, again = (vit_flops(self.encoder, n) + (n + prefix) * project for n in (visible, hidden))
        return encode + regress + decode, again


def regressor_flops(visible: int, masked: int, width: int, stack: StackConfig, feed_queries: bool = True) -> float:
    """Forward FLOPs of the regressor for one image."""
    keys, inner = visible + masked * feed_queries, int(width * stack.mlp_ratio)
    attention = cross_attention_flops(masked, keys, width, stack.heads)
    mlp = flops.dense(masked, width, inner) + flops.dense(masked, inner, width) + 8 * masked * inner
    return stack.depth * (attention + mlp + 16 * masked * width + 16 * keys * width)


def decoder_flops(tokens: int, width: int, stack: StackConfig, outputs: int) -> float:
    """Forward FLOPs of the decoder for one image."""
    blocks = flops.stack(stack, tokens, width)
    return blocks + flops.dense(tokens, width, outputs) + 8 * tokens * width
