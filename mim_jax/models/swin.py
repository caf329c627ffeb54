"""The Swin transformer, version 1 (Liu et al. ICCV 2021) and version 2 (Liu et al. CVPR 2022), on whole images or on
their visible cells alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import einops
import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mim_jax.errors import ConfigError
from mim_jax.models.classifier import Classified
from mim_jax.models.swin_config import SwinConfig
from mim_jax.models.swin_visible import stage_tokens, stage_windows
from mim_jax.nn import flops
from mim_jax.nn.block import REMAT_POLICIES
from mim_jax.nn.drop_path import drop_path, drop_path_rates
from mim_jax.nn.init import NORMAL, Init
from mim_jax.nn.mlp import Mlp
from mim_jax.nn.norms import layer_norm
from mim_jax.nn.patches import PatchEmbed, patchify
from mim_jax.nn.target import split_batch
from mim_jax.nn.visible_windows import VisibleWindows, take
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
    start: Init = START

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        noise: Float[Array, "B 2"] | None = None,
        rate: float | Float[Array, ""] = 0.0,
        visible: VisibleWindows | None = None,
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
            start=self.start,
            name="attn",
        )
        mlp = Mlp(int(x.shape[-1] * c.mlp_ratio), c.dtype, self.start, name="mlp")
        branches: tuple[Callable[..., Tokens], ...] = (partial(attention, visible=visible), mlp)
        for index, branch in enumerate(branches):
            normalise = norm(f"norm{index + 1}")
            out = normalise(branch(x)) if second else branch(normalise(x))
            x = split_batch(x + drop_path(out, None if noise is None else noise[:, index], rate))
        return x


class PatchMerging(nn.Module):
    """2 x 2 tokens become one of twice the width; the four lie behind each other column by column.

    Version 1 normalises before the linear map, version 2 after it.

    grid: of the tokens, which may be several such grids one after the other (the cells that are visible).
    """

    config: SwinConfig
    grid: tuple[int, int]
    start: Init = START

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B M E"]:
        c, width = self.config, x.shape[-1]
        norm = layer_norm("norm", c.dtype, c.layer_norm_eps)
        reduce = nn.Dense(2 * width, use_bias=False, dtype=c.dtype, kernel_init=self.start.kernel, name="reduction")
        h, w = self.grid[0] // 2, self.grid[1] // 2
        x = einops.rearrange(x, "b (u h p w q) d -> b (u h w) (q p d)", h=h, w=w, p=2, q=2)
        return norm(reduce(x)) if c.arch == "swinv2" else reduce(norm(x))


class Stage(nn.Module):
    """Blocks of one grid, with unmoved and moved windows in turn, and the merging that follows them."""

    config: SwinConfig
    stage: int
    rates: tuple[float, ...]
    start: Init = START

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        noise: Float[Array, "B L 2"] | None = None,
        visible: tuple[VisibleWindows, VisibleWindows] | None = None,
    ) -> tuple[Tokens, tuple[Tokens, ...]]:
        """What the next stage takes, and every block's output. visible: where only some cells are there, the windows
        of even and of odd blocks; tokens then come cell after cell."""
        c, outputs = self.config, []
        block = SwinBlock if c.remat == "none" else nn.remat(SwinBlock, policy=REMAT_POLICIES[c.remat])
        for i, rate in enumerate(self.rates):
            own = None if visible is None else visible[i % 2]
            made = block(c, self.stage, i, self.start, name=f"blocks_{i}")
            x = made(x, None if noise is None else noise[:, i], rate, own)
            outputs.append(x)
        if self.stage < len(c.depths) - 1:
            grid = c.stage_grid(self.stage) if visible is None else (c.cell_side(self.stage),) * 2
            x = PatchMerging(c, grid, self.start, name="downsample")(x)
        return x, tuple(outputs)


class Swin(nn.Module):
    """Patch embedding, stages, final norm.

    mask_token: whether hidden patches can be replaced by a learned token. final_norm: False where what follows brings
    its own. start: how linear layers start.
    listed: where only some cells are visible, every stage after the first takes the number of a token in the list of
    cells for its number in raster order when it looks for windows and relative positions (LocalMIM's released code).
    """

    config: SwinConfig
    mask_token: bool = False
    final_norm: bool = True
    start: Init = START
    listed: bool = False

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "B H W C"],
        hidden: Bool[Array, "B N"] | None = None,
        noise: Float[Array, "B L 2"] | None = None,
        layers: bool | str = False,
        visible: Int[Array, "#B V"] | None = None,
    ) -> tuple[Tokens, tuple[Tokens, ...]]:
        """Tokens of the last stage after the final norm, raster order; every block's output where `layers` asks, or
        ('stages') what each stage hands on, merged where it merges.

        hidden: patches whose (normalised) embedding is replaced by the mask token, before positions are added.
        visible: cells (tokens of the last stage) that are there; the others are never computed, and no token meets
            them. One row of it serves all images. Tokens then come cell after cell, in this order, and in raster
            order inside each.

        Raises:
            ConfigError: images of another size than the model's, whose windows would be others.
        """
        c = self.config
        if images.shape[1:3] != c.image_size:
            raise ConfigError(
                f"images of {images.shape[1]} x {images.shape[2]} pixels, but the windows of this model are laid out "
                f"for model.image_size {c.image_size}; make them equal"
            )
        x, shown = patchify(images, c.patch_size), None
        if visible is not None:
            shown = stage_tokens(c, visible, 0)
            x = take(x, shown)
        x = PatchEmbed(c.width, c.dtype, self.start, name="patch_embed")(x)
        if c.patch_norm:
            x = layer_norm("patch_norm", c.dtype, c.layer_norm_eps)(x)
        if self.mask_token:
            token = self.param("mask_token", NORMAL, (1, 1, c.width))
            if hidden is not None:
                x = jnp.where(hidden[:, :, None], token.astype(x.dtype), x)
        if c.positions == "learned":
            table = self.param("pos_embed", NORMAL, (1, c.tokens, c.width))
            x = x + (table if shown is None else table[0][shown]).astype(x.dtype)
        rates = [float(rate) for rate in drop_path_rates(c.drop_path_rate, c.depth)]
        noise = noise if c.drop_path_rate > 0 else None
        outputs: list[Tokens] = []
        for stage, depth in enumerate(c.depths):
            blocks = slice(sum(c.depths[:stage]), sum(c.depths[:stage]) + depth)
            part = Stage(c, stage, tuple(rates[blocks]), self.start, name=f"stages_{stage}")
            windows = None if visible is None else stage_windows(c, visible, stage, self.listed)
            x, made = part(x, None if noise is None else noise[:, blocks], windows)
            outputs += (x,) if layers == "stages" else made
        x = layer_norm("norm", c.dtype, c.layer_norm_eps)(x) if self.final_norm else x
        return x, tuple(outputs) if layers else ()


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
