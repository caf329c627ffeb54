"""The Swin transformer, version 1 (Liu et al. ICCV 2021) and version 2 (Liu et al. CVPR 2022), on whole images."""

from __future__ import annotations

from functools import partial

import einops
import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mim_jax.errors import ConfigError
from mim_jax.models.classifier import Classified
from mim_jax.models.swin_config import SwinConfig
from mim_jax.nn import flops
from mim_jax.nn.block import REMAT_POLICIES
from mim_jax.nn.drop_path import drop_path, drop_path_rates
from mim_jax.nn.init import NORMAL, Init
from mim_jax.nn.mlp import Mlp
from mim_jax.nn.norms import layer_norm
from mim_jax.nn.patches import PatchEmbed, patchify
from mim_jax.nn.target import split_batch
from mim_jax.nn.window import WindowAttention

START = Init(NORMAL, patch_kernel=None)  # the patch embedding keeps the framework's default

Tokens = Float[Array, "B _ _"]  # tokens and width change from stage to stage


class SwinBlock(nn.Module):
    """Window attention and perceptron, each with a residual.

    Version 1 normalises what goes into a branch, version 2 what comes out; the scales of version 2 start at zero, so
    that every block starts as the identity (Swin V2, section 3.2).
    """

    config: SwinConfig
    stage: int
    number: int  # in its stage

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N D"], noise: Float[Array, "B 2"] | None = None, rate: float | Float[Array, ""] = 0.0
    ) -> Float[Array, "B N D"]:
        c, stage, second = self.config, self.stage, self.config.arch == "swinv2"
        norm = partial(
            layer_norm,
            dtype=c.dtype,
            epsilon=c.layer_norm_eps,
            scale_init=nn.initializers.zeros if second else nn.initializers.ones,
        )
        attention = WindowAttention(
            c.stage_grid(stage),
            (c.stage_window(stage),) * 2,
            c.shift(stage, self.number),
            c.heads[stage],
            cosine=second,
            bias=c.qkv_bias,
            pretrained=(c.pretrained_windows[stage],) * 2 if c.pretrained_windows else None,
            dtype=c.dtype,
            start=START,
            name="attn",
        )
        mlp = Mlp(int(x.shape[-1] * c.mlp_ratio), c.dtype, START, name="mlp")
        for index, branch in enumerate((attention, mlp)):
            normalise = norm(f"norm{index + 1}")
            out = normalise(branch(x)) if second else branch(normalise(x))
            x = split_batch(x + drop_path(out, None if noise is None else noise[:, index], rate))
        return x


class PatchMerging(nn.Module):
    """2 x 2 tokens become one of twice the width; the four lie behind each other column by column.

    Version 1 normalises before the linear map, version 2 after it.
    """

    config: SwinConfig
    grid: tuple[int, int]

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B M E"]:
        c, width = self.config, x.shape[-1]
        norm = layer_norm("norm", c.dtype, c.layer_norm_eps)
        reduce = nn.Dense(2 * width, use_bias=False, dtype=c.dtype, kernel_init=START.kernel, name="reduction")
        x = einops.rearrange(x, "b (h p w q) d -> b (h w) (q p d)", h=self.grid[0] // 2, p=2, q=2)
        return norm(reduce(x)) if c.arch == "swinv2" else reduce(norm(x))


class Stage(nn.Module):
    """Blocks of one grid, with unmoved and moved windows in turn, and the merging that follows them."""

    config: SwinConfig
    stage: int
    rates: tuple[float, ...]

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N D"], noise: Float[Array, "B L 2"] | None = None
    ) -> tuple[Tokens, tuple[Tokens, ...]]:
        """What the next stage takes, and every block's output."""
        c, outputs = self.config, []
        block = SwinBlock if c.remat == "none" else nn.remat(SwinBlock, policy=REMAT_POLICIES[c.remat])
        for i, rate in enumerate(self.rates):
            x = block(c, self.stage, i, name=f"blocks_{i}")(x, None if noise is None else noise[:, i], rate)
            outputs.append(x)
        if self.stage < len(c.depths) - 1:
            x = PatchMerging(c, c.stage_grid(self.stage), name="downsample")(x)
        return x, tuple(outputs)


class Swin(nn.Module):
    """Patch embedding, stages, final norm. mask_token: whether hidden patches can be replaced by a learned token."""

    config: SwinConfig
    mask_token: bool = False

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "B H W C"],
        hidden: Bool[Array, "B N"] | None = None,
        noise: Float[Array, "B L 2"] | None = None,
        layers: bool = False,
    ) -> tuple[Tokens, tuple[Tokens, ...]]:
        """Tokens of the last stage after the final norm, raster order; every block's output where `layers` asks.

        hidden: patches whose (normalised) embedding is replaced by the mask token, before positions are added.

        Raises:
            ConfigError: images of another size than the model's, whose windows would be others.
        """
        c = self.config
        if images.shape[1:3] != c.image_size:
            raise ConfigError(
                f"images of {images.shape[1]} x {images.shape[2]} pixels, but the windows of this model are laid out "
                f"for model.image_size {c.image_size}; make them equal"
            )
        x = PatchEmbed(c.width, c.dtype, START, name="patch_embed")(patchify(images, c.patch_size))
        if c.patch_norm:
            x = layer_norm("patch_norm", c.dtype, c.layer_norm_eps)(x)
        if self.mask_token:
            token = self.param("mask_token", NORMAL, (1, 1, c.width))
            if hidden is not None:
                x = jnp.where(hidden[:, :, None], token.astype(x.dtype), x)
        if c.positions == "learned":
            x = x + self.param("pos_embed", NORMAL, (1, c.tokens, c.width)).astype(x.dtype)
        rates = [float(rate) for rate in drop_path_rates(c.drop_path_rate, c.depth)]
        noise = noise if c.drop_path_rate > 0 else None
        outputs: list[Tokens] = []
        for stage, depth in enumerate(c.depths):
            blocks = slice(sum(c.depths[:stage]), sum(c.depths[:stage]) + depth)
            part = Stage(c, stage, tuple(rates[blocks]), name=f"stages_{stage}")
            x, made = part(x, None if noise is None else noise[:, blocks])
            outputs += made
        return layer_norm("norm", c.dtype, c.layer_norm_eps)(x), tuple(outputs) if layers else ()


class SwinClassifier(nn.Module):
    """Encoder, mean over the tokens of the last stage, linear head: what fine-tuning trains."""

    config: SwinConfig
    classes: int
    head_std: float = 0.02

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W C"], noise: Float[Array, "B L 2"] | None = None, layers: bool = False
    ) -> Classified:
        """Logits and features of normalised images; `noise` drives drop path."""
        tokens, outputs = Swin(self.config, name="encoder")(images, noise=noise, layers=layers)
        tokens = tokens.astype(jnp.float32)
        features = tokens.mean(axis=1)
        head = nn.Dense(self.classes, kernel_init=nn.initializers.normal(self.head_std), name="head")
        return Classified(head(features), features, outputs, tokens)


def swin_flops(config: SwinConfig) -> float:
    """Forward FLOPs for one image; the position perceptrons, which run once per batch, are left out."""
    total = flops.dense(config.tokens, config.patch_values, config.width)
    for stage, depth in enumerate(config.depths):
        (rows, columns), width = config.stage_grid(stage), config.stage_width(stage)
        inside = config.stage_window(stage) ** 2
        windows = rows * columns // inside
        total += depth * windows * flops.block(inside, width, config.heads[stage], config.mlp_ratio)
        total += depth * windows * 2 * config.heads[stage] * inside**2  # positions, and the mask or the scale
        if stage < len(config.depths) - 1:
            total += flops.dense(rows * columns // 4, 4 * width, 2 * width)
    return total
