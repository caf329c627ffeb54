"""ResNet (He et al. 2016) as timm defines it, without a head, on all pixels or on active cells only."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mim_jax.models.conv_config import ConvConfig
from mim_jax.nn.drop_path import drop_path, drop_path_rates
from mim_jax.nn.init import ZEROS
from mim_jax.nn.sparse import ONES, BatchNorm, conv, keep
from mim_jax.nn.target import split_batch

ACTIVE = Bool[Array, "B h w"] | None
MAP = Float[Array, "B H W C"]


class ResNetBlock(nn.Module):
    """Bottleneck (1x1, 3x3 with the stride, 1x1) or basic (3x3 with the stride, 3x3) residual block.

    rate: of drop path on the branch. running: batch norms use the stored statistics.
    """

    config: ConvConfig
    width: int
    stride: int = 1
    rate: float = 0.0
    running: bool = False

    @nn.compact
    def __call__(
        self, x: MAP, active: ACTIVE = None, noise: Float[Array, "B"] | None = None
    ) -> Float[Array, "B _ _ _"]:
        c = self.config
        narrow, wide = self.width, self.width * (4 if c.block == "bottleneck" else 1)
        layers = [(narrow, 3, self.stride), (wide, 3, 1)]
        if c.block == "bottleneck":
            layers = [(narrow, 1, 1), (narrow, 3, self.stride), (wide, 1, 1)]
        branch = x
        for number, (width, kernel, stride) in enumerate(layers, start=1):
            last = number == len(layers)
            branch = keep(conv(f"conv{number}", width, kernel, stride, dtype=c.dtype)(branch), active)
            start = ZEROS if last and c.zero_init else ONES
            branch = BatchNorm(self.running, c.dtype, scale_init=start, name=f"bn{number}")(branch, active)
            branch = branch if last else nn.relu(branch)
        if self.stride != 1 or x.shape[-1] != wide:
            x = keep(conv("downsample_conv", wide, 1, self.stride, dtype=c.dtype)(x), active)
            x = BatchNorm(self.running, c.dtype, name="downsample_norm")(x, active)
        return split_batch(nn.relu(x + drop_path(branch, noise, self.rate)))


class ResNet(nn.Module):
    """Stem and stages; `config.arch` is 'resnet'. running: batch norms use the stored statistics."""

    config: ConvConfig
    running: bool = False

    @nn.compact
    def __call__(
        self, images: MAP, active: ACTIVE = None, noise: Float[Array, "B L"] | None = None
    ) -> tuple[Float[Array, "B _ _ _"], ...]:
        """The map of every stage, the largest first, in the compute type.

        active: cells that are seen; everything else is zero in every map. None: all of the image.
        noise: uniform, one number per image and block, for drop path; ignored where the rate is 0.
        """
        c = self.config
        block_class = nn.remat(ResNetBlock) if c.remat == "full" else ResNetBlock
        kernel, stride = (3, 1) if c.stem_stride == 1 else (7, 2)
        x = keep(images.astype(c.dtype), active)
        x = keep(conv("conv1", c.stem_width, kernel, stride, dtype=c.dtype)(x), active)
        x = nn.relu(BatchNorm(self.running, c.dtype, name="bn1")(x, active))
        if c.stem_stride == 4:
            # Padded by hand and called by name: jax2onnx forgets a padding of pools, and takes no unnamed arguments.
            x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
            x = keep(nn.max_pool(x, window_shape=(3, 3), strides=(2, 2)), active)
        rates, number, maps = drop_path_rates(c.drop_path_rate, sum(c.depth)), 0, []
        for stage, (width, depth) in enumerate(zip(c.width, c.depth, strict=True)):
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                block = block_class(
                    c, width, stride, float(rates[number]), self.running, name=f"stage_{stage}_block_{i}"
                )
                x = block(x, active, noise[:, number] if noise is not None and c.drop_path_rate > 0 else None)
                number += 1
            maps.append(x)
        return tuple(maps)
