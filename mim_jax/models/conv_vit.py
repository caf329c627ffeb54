"""A vision transformer behind a stem of convolutions that do not look across the mask (ConvMAE, Gao et al. 2022)."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Bool, Float, Int

from mim_jax.masking.mask import gather_tokens
from mim_jax.models.conv_vit_config import ConvVitConfig
from mim_jax.models.vit import Vit, vit_flops
from mim_jax.nn import conv_flops, flops
from mim_jax.nn.block import REMAT_POLICIES
from mim_jax.nn.drop_path import drop_path, drop_path_rates
from mim_jax.nn.init import XAVIER, Init, fan_in_uniform
from mim_jax.nn.materialize import materialized
from mim_jax.nn.mlp import gelu
from mim_jax.nn.norms import layer_norm
from mim_jax.nn.patches import PatchEmbed, patchify
from mim_jax.nn.sparse import conv, keep

EPSILON = 1e-5  # of the norms of the stem
KERNEL = 5
DEFAULT = Init(patch_kernel=None)  # what the originals' framework gives a convolution

Map = Float[Array, "B H W C"]


class Embed(nn.Module):
    """A map of patches of side `stride`: a linear map of each, layer norm, GELU."""

    width: int
    stride: int
    dtype: Dtype = jnp.float32
    start: Init = DEFAULT

    @nn.compact
    def __call__(self, x: Map) -> Float[Array, "B h w D"]:
        side = (self.stride, self.stride)
        grid = (x.shape[1] // self.stride, x.shape[2] // self.stride)
        patches = PatchEmbed(self.width, self.dtype, self.start, name="patch_embed")(patchify(x, side))
        patches = gelu(layer_norm("norm", self.dtype, EPSILON)(patches))
        return patches.reshape(-1, *grid, self.width)


class ConvBlock(nn.Module):
    """x + 1x1(depthwise(visible * 1x1(norm(x)))), then x + perceptron(norm(x)).

    What is hidden is zeroed before the depthwise convolution, the only layer that looks at other places; the residual
    and the perceptron carry what is hidden where it is.
    """

    mlp_ratio: int | float = 4.0
    dtype: Dtype = jnp.float32
    rate: float = 0.0  # of drop path, on both branches

    @nn.compact
    def __call__(
        self, x: Map, active: Bool[Array, "B h w"] | None = None, noise: Float[Array, "B 2"] | None = None
    ) -> Map:
        width = x.shape[-1]
        norm = partial(layer_norm, dtype=self.dtype, epsilon=EPSILON)

        def linear(x, name, outputs):
            start = fan_in_uniform(x.shape[-1])
            return nn.Dense(outputs, dtype=self.dtype, kernel_init=start, bias_init=start, name=name)(x)

        def residual(x, branch, index):
            return materialized(x + drop_path(branch, None if noise is None else noise[:, index], self.rate))

        spatial = conv(
            *("depthwise", width, KERNEL, 1, width, True, self.dtype),
            kernel_init=fan_in_uniform(),
            bias_init=fan_in_uniform(KERNEL**2),
        )
        branch = spatial(keep(linear(norm("norm1")(x), "conv1", width), active))
        x = residual(x, linear(branch, "conv2", width), 0)
        hidden = gelu(linear(norm("norm2")(x), "fc1", int(width * self.mlp_ratio)))
        return residual(x, linear(hidden, "fc2", width), 1)


class ConvVit(nn.Module):
    """Stages of convolutions on the whole image, then a transformer on the visible tokens, then a norm.

    fuse: whether the maps of the stem, cut into patches, are added to what leaves the transformer, before the norm.
    final_norm: False where a head brings its own norm, as in fine-tuning.
    """

    config: ConvVitConfig
    fuse: bool = False
    final_norm: bool = True

    @nn.compact
    def __call__(
        self,
        images: Map,
        visible: Int[Array, "M V"] | None = None,
        hidden: Bool[Array, "M N"] | None = None,
        noise: Float[Array, "M L 2"] | None = None,
        layers: bool | str = False,
    ) -> tuple[Float[Array, "M T D"], tuple[Float[Array, "M T D"], ...]]:
        """Tokens after the final norm, and the output of every transformer block where `layers` asks for it ('normed':
        through the final norm).

        hidden, visible: the mask, its visible patches in the order in which the transformer shall see them. There may
        be several masks per image, those of one image behind each other; its first embedding is computed once.
        noise: of drop path, whose rates grow over the blocks of the stem and then those of the transformer; ignored
            where the rate is 0.
        """
        c, number = self.config, 0
        rates, noise = drop_path_rates(c.drop_path_rate, c.blocks), noise if c.drop_path_rate > 0 else None
        active = None if hidden is None else ~hidden.reshape(-1, *c.grid)
        remat = REMAT_POLICIES[c.remat]
        block = ConvBlock if remat is None else nn.remat(ConvBlock, policy=remat)
        x, maps = images, []
        for stage, (width, depth) in enumerate(zip(c.stem_width, c.stem_depth, strict=True)):
            x = Embed(width, c.strides[stage], c.dtype, name=f"embed_{stage}")(x)
            if active is not None and len(active) > len(x):
                x = jnp.repeat(x, len(active) // len(x), axis=0)
            for i in range(depth):
                settings = (c.stem_mlp_ratio[stage], c.dtype, float(rates[number]))
                drawn = None if noise is None else noise[:, number]
                x = block(*settings, name=f"stage_{stage}_block_{i}")(x, active, drawn)
                number += 1
            maps.append(x)
            self.sow("intermediates", f"stage_{stage}", x)
        x = Embed(c.width, c.strides[-1], c.dtype, Init(patch_kernel=XAVIER), name="embed")(x)
        rest = None if noise is None else noise[:, number:]
        transformer = Vit(c.vit, final_norm=False, before=number, name="transformer")
        x, outputs = transformer(x, visible, noise=rest, layers=layers)
        if self.fuse:
            for stage, (stride, map_) in enumerate(zip(c.stage_strides, maps, strict=True)):
                side = c.patch_size[0] // stride
                patches = patchify(map_, (side, side))
                patches = patches if visible is None else gather_tokens(patches, visible)
                x = x + PatchEmbed(c.width, c.dtype, DEFAULT, name=f"fuse_{stage}")(patches)
        if not self.final_norm:
            return x, outputs
        norm = layer_norm("norm", c.dtype, c.layer_norm_eps)
        return norm(x), tuple(map(norm, outputs)) if layers == "normed" else outputs


def conv_vit_flops(config: ConvVitConfig, visible: int | None = None, fuse: bool = False) -> float:
    """Forward FLOPs for one image and mask; the convolutions see all of it, the transformer `visible` tokens."""
    c, total, inputs = config, 0.0, config.channels
    for stage, (width, side) in enumerate(zip(c.stem_width, c.stage_strides, strict=True)):
        size = (c.image_size[0] // side, c.image_size[1] // side)
        total += embed_flops(size, inputs * c.strides[stage] ** 2, width)
        total += c.stem_depth[stage] * block_flops(size, width, int(width * c.stem_mlp_ratio[stage]))
        inputs = width
    seen = c.tokens if visible is None else visible
    total += embed_flops(c.grid, inputs * c.strides[-1] ** 2, c.width) + vit_flops(c.vit, seen)
    sides = (c.patch_size[0] // side for side in c.stage_strides)
    fused = (flops.dense(seen, width * side**2, c.width) for width, side in zip(c.stem_width, sides, strict=True))
    return total + sum(fused) * fuse


def first_embed_flops(config: ConvVitConfig) -> float:
    """Forward FLOPs of the first embedding, through which no gradient goes on to the pixels."""
    side = config.strides[0]
    size = (config.image_size[0] // side, config.image_size[1] // side)
    return embed_flops(size, config.channels * side**2, config.stem_width[0])


def embed_flops(size: tuple[int, int], inputs: int, width: int) -> float:
    """Forward FLOPs of `Embed` whose output is a map of `size`."""
    positions = size[0] * size[1]
    return flops.dense(positions, inputs, width) + 16 * positions * width


def block_flops(size: tuple[int, int], width: int, hidden: int) -> float:
    """Forward FLOPs of `ConvBlock` on a map of `size`."""
    positions = size[0] * size[1]
    linear = 2 * flops.dense(positions, width, width)
    linear += flops.dense(positions, width, hidden) + flops.dense(positions, hidden, width)
    spatial = conv_flops.conv(size, width, width, KERNEL, groups=width, bias=True)
    return linear + spatial + 16 * positions * width + 8 * positions * hidden
