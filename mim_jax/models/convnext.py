"""ConvNeXt (Liu et al. 2022) as its authors define it, without norm and head, on all pixels or active cells only."""

from __future__ import annotations

import flax.linen as nn
from jaxtyping import Array, Bool, Float

from mim_jax.models.conv_config import ConvConfig
from mim_jax.nn.drop_path import drop_path, drop_path_rates
from mim_jax.nn.init import NORMAL
from mim_jax.nn.norms import layer_norm
from mim_jax.nn.sparse import conv, keep
from mim_jax.nn.target import split_batch

ACTIVE = Bool[Array, "B h w"] | None
MAP = Float[Array, "B H W C"]


class ConvNeXtBlock(nn.Module):
    """7x7 depthwise convolution, layer norm, linear to four times the width, GELU, linear, scale.

    Biases and the norm write into inactive places, so the branch is masked at its end too.
    """

    config: ConvConfig
    rate: float = 0.0

    @nn.compact
    def __call__(self, x: MAP, active: ACTIVE = None, noise: Float[Array, "B"] | None = None) -> MAP:
        c, width = self.config, x.shape[-1]
        # XLA's own depthwise convolution: on a CPU a sum of 49 shifted products runs two to three times as fast, but
        # takes ten times as long to compile; accelerators want the convolution.
        branch = conv("dwconv", width, 7, groups=width, bias=True, dtype=c.dtype, kernel_init=NORMAL)(x)
        branch = keep(layer_norm("norm", c.dtype)(keep(branch, active)), active)
        branch = nn.Dense(4 * width, dtype=c.dtype, kernel_init=NORMAL, name="pwconv1")(branch)
        branch = nn.gelu(branch, approximate=False)
        branch = nn.Dense(width, dtype=c.dtype, kernel_init=NORMAL, name="pwconv2")(branch)
        if c.layer_scale:
            gamma = self.param("gamma", nn.initializers.constant(c.layer_scale), (width,))
            branch = branch * gamma.astype(branch.dtype)
        return split_batch(x + drop_path(keep(branch, active), noise, self.rate))


class ConvNeXt(nn.Module):
    """Patch stem, stages, and a norm with a 2x2 convolution before each further stage; `config.arch` is 'convnext'.

    running: takes and ignores what batch-norm networks need, so that both kinds are built alike.
    """

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
        block_class = nn.remat(ConvNeXtBlock) if c.remat == "full" else ConvNeXtBlock
        rates, number, maps = drop_path_rates(c.drop_path_rate, sum(c.depth)), 0, []
        x = keep(images.astype(c.dtype), active)
        for stage, (width, depth) in enumerate(zip(c.width, c.depth, strict=True)):
            x = Downsample(c, width, c.stem_stride if stage == 0 else 2, stage > 0, name=f"downsample_{stage}")(
                x, active
            )
            for i in range(depth):
                block = block_class(c, float(rates[number]), name=f"stage_{stage}_block_{i}")
                x = block(x, active, noise[:, number] if noise is not None and c.drop_path_rate > 0 else None)
                number += 1
            maps.append(x)
        return tuple(maps)


class Downsample(nn.Module):
    """A convolution over whole patches of side `stride`; layer norm before it between stages, after it in the stem."""

    config: ConvConfig
    width: int
    stride: int
    norm_first: bool

    @nn.compact
    def __call__(self, x: MAP, active: ACTIVE = None) -> Float[Array, "B _ _ _"]:
        c = self.config

        def norm(x):
            return keep(layer_norm("norm", c.dtype)(x), active)

        x = norm(x) if self.norm_first else x
        x = conv("conv", self.width, self.stride, self.stride, bias=True, dtype=c.dtype, kernel_init=NORMAL)(x)
        x = keep(x, active)
        return x if self.norm_first else norm(x)
