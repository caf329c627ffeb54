"""The convolutional encoder and decoder of DALL-E's discrete VAE, whose published weights give BEiT its targets."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from mim_jax.nn import conv_flops
from mim_jax.nn.target import split_batch

conv = partial(conv_flops.conv, bias=True)  # every convolution here has one

GROUPS = 4  # of residual blocks; the resolution changes between them, so that a token covers 8 x 8 pixels
STRIDE = 2 ** (GROUPS - 1)
EPSILON = 0.1  # pixels are mapped from [0, 1] to [0.1, 0.9], where the logit-Laplace likelihood is well behaved


def map_pixels(images: Float[Array, "*B C"]) -> Float[Array, "*B C"]:
    """Pixels in [0, 1] as the encoder takes them: 0.8 v + 0.1 (Ramesh et al. 2021, appendix A.3)."""
    return (1.0 - 2.0 * EPSILON) * images + EPSILON


def unmap_pixels(mapped: Float[Array, "*B C"]) -> Float[Array, "*B C"]:
    """Inverse of `map_pixels`, clipped to [0, 1]."""
    return jnp.clip((mapped - EPSILON) / (1.0 - 2.0 * EPSILON), 0.0, 1.0)


class DalleBlock(nn.Module):
    """A residual block of four convolutions; the branch counts 1/64 with two blocks in each of four groups.

    kernels: sides of the four convolutions: 3, 3, 3, 1 in the encoder and 1, 3, 3, 3 in the decoder.
    """

    width: int
    kernels: tuple[int, ...]
    gain: float
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h w E"]:
        short = x
        if x.shape[-1] != self.width:
            short = nn.Conv(self.width, (1, 1), dtype=self.dtype, name="id_path")(x)
        widths = (self.width // 4,) * 3 + (self.width,)
        for n, (width, side) in enumerate(zip(widths, self.kernels, strict=True), 1):
            x = nn.Conv(width, (side, side), dtype=self.dtype, name=f"conv_{n}")(nn.relu(x))
        return split_batch(short + self.gain * x)


class DalleEncoder(nn.Module):
    """Images of mapped pixels to (features before the last ReLU, logits over the vocabulary), one per 8 x 8 pixels."""

    hidden: int = 256
    blocks: int = 2  # per group
    vocabulary: int = 8192
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W C"]
    ) -> tuple[Float[Array, "B h w D"], Float[Array, "B h w vocabulary"]]:
        x = nn.Conv(self.hidden, (7, 7), dtype=self.dtype, name="input")(images)
        gain = 1.0 / (GROUPS * self.blocks) ** 2
        for group in range(GROUPS):
            for n in range(self.blocks):
                name = f"group_{group + 1}_block_{n + 1}"
                x = DalleBlock(self.hidden * 2**group, (3, 3, 3, 1), gain, self.dtype, name=name)(x)
            if group < GROUPS - 1:
                x = nn.max_pool(x, (2, 2), (2, 2))
        return x, nn.Conv(self.vocabulary, (1, 1), dtype=self.dtype, name="output")(nn.relu(x)).astype(jnp.float32)


class DalleDecoder(nn.Module):
    """One-hot tokens, or mixtures of them, to the mean of the logit-Laplace likelihood as pixels in [0, 1].

    The output convolution also gives the scale of the likelihood (its second half of channels), which pictures drop.
    """

    hidden: int = 256
    blocks: int = 2  # per group
    channels: int = 3
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens: Float[Array, "B h w V"]) -> Float[Array, "B H W C"]:
        x = nn.Conv(self.hidden // 2, (1, 1), dtype=self.dtype, name="input")(tokens)
        gain = 1.0 / (GROUPS * self.blocks) ** 2
        for group in range(GROUPS):
            for n in range(self.blocks):
                name = f"group_{group + 1}_block_{n + 1}"
                x = DalleBlock(self.hidden * 2 ** (GROUPS - 1 - group), (1, 3, 3, 3), gain, self.dtype, name=name)(x)
            if group < GROUPS - 1:
                x = x.repeat(2, axis=1).repeat(2, axis=2)
        x = nn.Conv(2 * self.channels, (1, 1), dtype=self.dtype, name="output")(nn.relu(x)).astype(jnp.float32)
        return unmap_pixels(nn.sigmoid(x[..., : self.channels]))


def dalle_encoder_flops(size: tuple[int, int], channels: int, hidden: int, blocks: int, vocabulary: int) -> float:
    """Forward FLOPs of the encoder on one image of `size` (height, width)."""
    (height, width), inputs = size, hidden
    total = conv(size, channels, hidden, 7)
    for group in range(GROUPS):
        outputs, here = hidden * 2**group, (height >> group, width >> group)
        for _ in range(blocks):
            inner, places = outputs // 4, here[0] * here[1]
            total += conv(here, inputs, inner, 3) + 2 * conv(here, inner, inner, 3) + conv(here, inner, outputs, 1)
            total += conv(here, inputs, outputs, 1) if inputs != outputs else 0.0
            total += places * (inputs + 3 * inner + 2 * outputs)  # ReLU, gain, sum
            inputs = outputs
        total += 3 * places * outputs / 4 if group < GROUPS - 1 else places * outputs
    return total + conv(here, inputs, vocabulary, 1)
