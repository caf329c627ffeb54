"""SparK's densify step and light U-Net decoder (Tian et al. 2023, section 3.2)."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Bool, Float

from mim_jax.nn import conv_flops
from mim_jax.nn.init import NORMAL, ONE_SIGMA, fan_in_uniform
from mim_jax.nn.norms import layer_norm
from mim_jax.nn.patches import patchify
from mim_jax.nn.sparse import KAIMING, BatchNorm, conv, keep, spread

Maps = tuple[Float[Array, "B _ _ _"], ...]


class Densify(nn.Module):
    """Fills the holes of every map with that scale's mask token and projects it to the decoder's width there.

    width: of the decoder at its smallest map; halved with every scale. norm: bn | ln | none.
    A smallest map that is as wide as the decoder is not projected.
    """

    width: int
    norm: str
    running: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, maps: Maps, active: Bool[Array, "B h w"]) -> Maps:
        """maps: the smallest first."""
        dense = []
        for i, x in enumerate(maps):
            channels, width = x.shape[-1], self.width // 2**i
            if self.norm == "bn":
                x = BatchNorm(self.running, self.dtype, name=f"norm_{i}")(x, active)
            elif self.norm == "ln":
                x = keep(layer_norm(f"norm_{i}", self.dtype)(x), active)
            token = self.param(f"mask_token_{i}", ONE_SIGMA, (channels,))
            x = jnp.where(spread(active, (x.shape[1], x.shape[2])), x, token.astype(x.dtype))
            if i > 0 or channels != width:
                kernel = 1 if i == 0 else 3
                start = fan_in_uniform(kernel * kernel * channels)
                project = conv(
                    f"proj_{i}", width, kernel, bias=True, dtype=self.dtype, kernel_init=start, bias_init=start
                )
                x = project(x)
            dense.append(x)
        return tuple(dense)


class UnetBlock(nn.Module):
    """Twice the resolution: transposed convolution, two 3x3 convolutions with batch norm, ReLU6 between them."""

    width: int
    running: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B _ _ _"]:
        channels = x.shape[-1]
        # Kernel 4, stride 2, padding 1 of PyTorch: the gradient of that convolution, whose kernel (h, w, out, in) is
        # flipped here; a padding of 1 there is one of 4 - 1 - 1 on the dilated input.
        up = nn.ConvTranspose(
            channels,
            (4, 4),
            (2, 2),
            padding=((2, 2), (2, 2)),
            transpose_kernel=True,
            dtype=self.dtype,
            kernel_init=KAIMING,
            name="up",
        )
        x = conv("conv1", channels, 3, dtype=self.dtype, kernel_init=NORMAL)(up(x))
        x = nn.relu6(BatchNorm(self.running, self.dtype, name="norm1")(x))
        x = conv("conv2", self.width, 3, dtype=self.dtype, kernel_init=NORMAL)(x)
        return BatchNorm(self.running, self.dtype, name="norm2")(x)


class SparkDecoder(nn.Module):
    """U-Net blocks that each take one more scale in, until the image's resolution; then a 1x1 convolution.

    width: at the smallest map; halved by every block. cell: (height, width) in pixels of a position of that map.
    """

    width: int
    cell: tuple[int, int]
    channels: int
    running: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, maps: Maps) -> Float[Array, "B N P"]:
        """Values of every cell in raster order, float32; maps: dense, the smallest first, one for a block or fewer."""
        x = jnp.zeros((), self.dtype)
        for i in range(steps(self.cell[0])):
            x = x + maps[i] if i < len(maps) else x
            x = UnetBlock(self.width // 2 ** (i + 1), self.running, self.dtype, name=f"blocks_{i}")(x)
        x = conv("proj", self.channels, 1, bias=True, dtype=self.dtype, kernel_init=NORMAL)(x)
        return patchify(x.astype(jnp.float32), self.cell)


def steps(stride: int) -> int:
    """How often a map of this stride is doubled to reach the image."""
    return stride.bit_length() - 1


def spark_decoder_flops(
    grid: tuple[int, int], widths: tuple[int, ...], width: int, blocks: int, channels: int
) -> float:
    """Forward FLOPs for one image of densify and decoder; `widths` of the maps taken in, the smallest first."""
    total, size = 0.0, grid
    for i in range(blocks):
        if i < len(widths):
            total += conv_flops.batch_norm(size, widths[i])
            if i > 0 or widths[i] != width:
                total += conv_flops.conv(size, widths[i], width, 1 if i == 0 else 3, bias=True)
        size = (2 * size[0], 2 * size[1])
        total += conv_flops.conv(size, width, width, 4, 2, padding=1)  # transposed: the same pairs the other way round
        total += conv_flops.conv(size, width, width, 3) + conv_flops.conv(size, width, width // 2, 3)
        total += conv_flops.batch_norm(size, width + width // 2)
        width //= 2
    return total + conv_flops.conv(size, width, channels, 1, bias=True)
