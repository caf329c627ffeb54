"""A small convolutional encoder and decoder for tokenizers that are trained here (VQ-VAE, discrete VAE)."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from flax.typing import Dtype
from jaxtyping import Array, Float

from mim_jax.nn import conv_flops
from mim_jax.nn.target import split_batch

conv = partial(conv_flops.conv, bias=True)  # every convolution here has one


class ResidualBlock(nn.Module):
    """x + 1x1(ReLU(3x3(ReLU(x)))), as in VQ-VAE (van den Oord et al. 2017, section 4.1)."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h w D"]:
        width = x.shape[-1]
        y = nn.Conv(inner_width(width), (3, 3), dtype=self.dtype, name="conv_1")(nn.relu(x))
        return split_batch(x + nn.Conv(width, (1, 1), dtype=self.dtype, name="conv_2")(nn.relu(y)))


def inner_width(width: int) -> int:
    return max(width // 2, 2)


def level_widths(hidden: int, levels: int) -> tuple[int, ...]:
    """Channels after each halving of the resolution: doubling, up to `hidden`."""
    return tuple(max(hidden >> (levels - 1 - level), 4) for level in range(levels))


class ConvEncoder(nn.Module):
    """Images to (features, outputs) on a grid that is 2^levels times smaller; each level merges 2 x 2 neighbours."""

    hidden: int
    levels: int
    blocks: int  # residual blocks per level
    outputs: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"]) -> tuple[Float[Array, "B h w D"], Float[Array, "B h w E"]]:
        x = images
        for level, width in enumerate(level_widths(self.hidden, self.levels), 1):
            x = rearrange(x, "b (h p) (w q) c -> b h w (p q c)", p=2, q=2)
            x = nn.Dense(width, dtype=self.dtype, name=f"merge_{level}")(x)
            for n in range(self.blocks):
                x = ResidualBlock(self.dtype, name=f"level_{level}_block_{n + 1}")(x)
        return x, nn.Dense(self.outputs, dtype=self.dtype, name="output")(nn.relu(x)).astype(jnp.float32)


class ConvDecoder(nn.Module):
    """Code vectors to images; the mirror of `ConvEncoder`."""

    hidden: int
    levels: int
    blocks: int  # residual blocks per level
    channels: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, codes: Float[Array, "B h w D"]) -> Float[Array, "B H W C"]:
        widths = level_widths(self.hidden, self.levels)
        x = nn.Conv(widths[-1], (3, 3), dtype=self.dtype, name="input")(codes)
        for level in range(self.levels, 0, -1):
            for n in range(self.blocks):
                x = ResidualBlock(self.dtype, name=f"level_{level}_block_{n + 1}")(x)
            finer = widths[level - 2] if level > 1 else self.channels
            x = nn.Dense(4 * finer, dtype=self.dtype, name=f"split_{level}")(nn.relu(x))
            x = rearrange(x, "b h w (p q c) -> b (h p) (w q) c", p=2, q=2)
        return x.astype(jnp.float32)


def conv_encoder_flops(
    size: tuple[int, int], channels: int, hidden: int, levels: int, blocks: int, outputs: int
) -> float:
    """Forward FLOPs of the encoder on one image of `size` (height, width)."""
    total, inputs = 0.0, channels
    for level, width in enumerate(level_widths(hidden, levels), 1):
        here = (size[0] >> level, size[1] >> level)
        total += conv(here, 4 * inputs, width, 1) + blocks * block_flops(here, width)
        inputs = width
    return total + conv(here, inputs, outputs, 1) + here[0] * here[1] * inputs


def conv_decoder_flops(
    size: tuple[int, int], channels: int, hidden: int, levels: int, blocks: int, inputs: int
) -> float:
    """Forward FLOPs of the decoder of one image of `size` (height, width)."""
    widths = level_widths(hidden, levels)
    total = conv((size[0] >> levels, size[1] >> levels), inputs, widths[-1], 3)
    for level in range(levels, 0, -1):
        here, width = (size[0] >> level, size[1] >> level), widths[level - 1]
        finer = widths[level - 2] if level > 1 else channels
        total += blocks * block_flops(here, width) + conv(here, width, 4 * finer, 1) + here[0] * here[1] * width
    return total


def block_flops(grid: tuple[int, int], width: int) -> float:
    inner, places = inner_width(width), grid[0] * grid[1]
    return conv(grid, width, inner, 3) + conv(grid, inner, width, 1) + places * (2 * width + inner)
