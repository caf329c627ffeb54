"""The vision transformer (Dosovitskiy et al. 2021), on all patches or on the visible ones alone."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mim_jax.errors import ConfigError
from mim_jax.masking.mask import gather_tokens
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn import flops
from mim_jax.nn.attend import padding_bias
from mim_jax.nn.block import run_blocks
from mim_jax.nn.init import INITS
from mim_jax.nn.norms import layer_norm
from mim_jax.nn.patches import PatchEmbed, patchify
from mim_jax.nn.positions import resize_positions, sincos_2d
from mim_jax.nn.relative import RelativeBias
from mim_jax.nn.rotary import rotary_table, unturned_before


class Vit(nn.Module):
    """Patch embedding, cls token, positions, blocks, final norm.

    mask_token: whether hidden patches can be replaced by a learned token (used by methods that show them).
    final_norm: False where a head brings its own norm (MAE's fine-tuning with mean pooling).
    before: blocks of a stem in front of it (`models.conv_vit`), with which its own share the rates of drop path.

    Registers stand between cls and the patches in the blocks and are left out of everything that is returned (Darcet
    et al. 2024). The matrix `projection` is there for `models.teacher` alone.
    """

    config: VitConfig
    mask_token: bool = False
    final_norm: bool = True
    before: int = 0

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "B H W C"],
        visible: Int[Array, "B V"] | None = None,
        hidden: Bool[Array, "B N"] | None = None,
        noise: Float[Array, "B L 2"] | None = None,
        layers: bool | str = False,
        valid: Bool[Array, "B V"] | None = None,
    ) -> tuple[Float[Array, "B T D"], tuple[Float[Array, "B T D"], ...]]:
        """Tokens after the final norm, cls first where there is one, and every block's output where `layers` asks
        ('normed': each through the final norm).

        visible: patch numbers to keep, in the order in which the blocks shall see them (default: all, raster).
        hidden: patches whose embedding is replaced by the mask token, before positions are added.
        valid: False for entries of `visible` that only fill it up to a static length: no token attends to them.

        Raises:
            ConfigError: a relative position bias with some patches only, or on images of another grid.
        """
        c, init = self.config, INITS[self.config.init]
        grid = (images.shape[1] // c.patch_size[0], images.shape[2] // c.patch_size[1])
        if c.relative_bias != "none" and (visible is not None or grid != c.grid):
            raise ConfigError(f"model.relative_bias needs all patches of the grid {c.grid}; resize its table first")
        patches, positions = patchify(images, c.patch_size), self._positions(grid)
        if visible is not None:
            # The embedding is linear per patch, so hidden patches need not be embedded at all.
            patches = gather_tokens(patches, visible)
        x = PatchEmbed(c.width, c.dtype, init, c.patch_bias, name="patch_embed")(patches)
        if c.patch_gradient != 1.0:
            still = jax.lax.stop_gradient(x)
            x = still + c.patch_gradient * (x - still)
        if self.mask_token:
            token = self.param("mask_token", init.mask_token or init.token, (1, 1, c.width))
            if hidden is not None:
                x = jnp.where(hidden[:, :, None], token.astype(x.dtype), x)
        if positions is not None:
            rows = positions[:, c.prefix :]
            if visible is not None:
                rows = gather_tokens(jnp.broadcast_to(rows, (images.shape[0], *rows.shape[1:])), visible)
            x = x + rows.astype(x.dtype)
        if c.registers:
            x = _before(self.param("register_tokens", init.token, (1, c.registers, c.width)), x)
        if c.cls_token:
            cls = self.param("cls_token", init.token, (1, 1, c.width))
            x = _before(cls if positions is None else cls + positions[:, :1], x)
        if c.pre_norm:
            x = layer_norm("pre_norm", c.dtype, c.layer_norm_eps, init.norm_bias)(x)
        bias = None
        if c.relative_bias == "shared":
            bias = RelativeBias(c.heads, c.grid, c.cls_token, name="relative_bias")()
        if valid is not None:
            valid = jnp.pad(valid, ((0, 0), (c.prefix + c.registers, 0)), constant_values=True)
            bias = padding_bias(valid) if bias is None else bias + padding_bias(valid)
        self.sow("intermediates", "embedding", x)  # kept where somebody looks (`models.attention_map`)
        rotary = self._rotary(grid, visible)
        x, outputs = run_blocks(self, c.stack, x, noise, bool(layers), bias, rotary, self.before)
        x, outputs = without_registers(c, x), tuple(without_registers(c, output) for output in outputs)
        if self.final_norm:
            norm = layer_norm("norm", c.dtype, c.layer_norm_eps, init.norm_bias)
            x, outputs = norm(x), tuple(map(norm, outputs)) if layers == "normed" else outputs
        if c.projection:
            self.param("projection", init.kernel, (c.width, c.projection))
        return x, outputs

    def _rotary(self, grid: tuple[int, int], visible: Int[Array, "B V"] | None) -> Float[Array, "2 #B S d"] | None:
        """Cosines and sines of all that passes the blocks: patches turn, class token and registers do not."""
        c = self.config
        if not c.rope and not c.rope_base:
            return None
        table = jnp.asarray(rotary_table(grid, c.width // c.heads, c.rope, float(c.rope_base or 10000.0)))
        return unturned_before(table[:, None] if visible is None else table[:, visible], c.prefix + c.registers)

    def _positions(self, grid: tuple[int, int]) -> Float[Array, "1 T D"] | None:
        c = self.config
        if c.positions == "none":
            return None
        if c.positions in ("sincos", "sincos_row", "sincos_cae"):
            return jnp.asarray(fixed_positions(c, grid))[None]

        def sincos(key, shape):
            return jnp.asarray(sincos_2d(c.grid, c.width, c.prefix))[None]

        init = sincos if c.positions == "learned_sincos" else INITS[c.init].token
        table = self.param("pos_embed", init, (1, c.prefix + c.tokens, c.width))
        return resize_positions(table, c.grid, grid, c.prefix, c.position_offset, c.position_antialias)


def _before(tokens: Float[Array, "1 R D"], x: Float[Array, "B T D"]) -> Float[Array, "B S D"]:
    """The tokens of every image with the same ones before them."""
    return jnp.concatenate([jnp.broadcast_to(tokens, (x.shape[0], *tokens.shape[1:])).astype(x.dtype), x], axis=1)


def without_registers(config: VitConfig, x: Float[Array, "B ..."], axis: int = 1) -> Float[Array, "B ..."]:
    """What the blocks see without the rows of the registers, along `axis`."""
    if not config.registers:
        return x
    before, _, after = jnp.split(x, (config.prefix, config.prefix + config.registers), axis=axis)
    return jnp.concatenate([before, after], axis=axis)


def fixed_positions(config: VitConfig, grid: tuple[int, int]) -> Float[np.ndarray, "T D"]:
    """The table of an encoder whose positions are fixed (`config.positions` sincos, sincos_row or sincos_cae)."""
    # CAE's code numbers the patches column by column in its table, which shows on rectangles alone.
    sides = grid[::-1] if config.positions == "sincos_cae" else grid
    return sincos_2d(sides, config.width, config.prefix, config.positions != "sincos")


def vit_flops(config: VitConfig, visible: int | None = None) -> float:
    """Forward FLOPs for one image; `visible` patches (default: all), cls token and registers pass the blocks."""
    patches = config.tokens if visible is None else visible
    tokens, width = patches + config.prefix + config.registers, config.width
    embed = flops.dense(patches, config.patch_values, width) - (0 if config.patch_bias else patches * width)
    blocks = flops.stack(config.stack, tokens, width)
    scale = 2 * config.depth * tokens * width if config.layer_scale else 0
    turn = 2 * config.depth * 4 * tokens * width if config.rope or config.rope_base else 0  # of queries and keys
    return embed + blocks + scale + turn + (8 * tokens * width if config.pre_norm else 0)
