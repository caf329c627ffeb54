"""Attention inside windows (Swin, Liu et al. ICCV 2021; Swin V2, Liu et al. CVPR 2022)."""

from __future__ import annotations

import math
from functools import partial

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype
from jaxtyping import Array, Float

from mim_jax.nn.attend import attend
from mim_jax.nn.init import NORMAL, Init
from mim_jax.nn.relative import RelativeBias, relative_index
from mim_jax.nn.visible_windows import VisibleWindows

Pair = tuple[int, int]

APART = -100.0  # what the originals add to the logit of two patches that the shift made neighbours
LARGEST_LOG_SCALE = math.log(100.0)
POSITION_HIDDEN = 512


def to_windows(x: Float[Array, "B N D"], grid: Pair, window: Pair) -> Float[Array, "B W T D"]:
    """Tokens in raster order as W windows of T tokens, windows and the tokens in them in raster order."""
    p, q = window
    return einops.rearrange(x, "b (h p w q) d -> b (h w) (p q) d", h=grid[0] // p, p=p, w=grid[1] // q, q=q)


def from_windows(x: Float[Array, "B W T D"], grid: Pair, window: Pair) -> Float[Array, "B N D"]:
    """Inverse of `to_windows`."""
    p, q = window
    return einops.rearrange(x, "b (h w) (p q) d -> b (h p w q) d", h=grid[0] // p, p=p, q=q)


def roll(x: Float[Array, "B N D"], grid: Pair, shift: int) -> Float[Array, "B N D"]:
    """The grid of tokens moved cyclically by `shift` rows and columns, up and to the left."""
    if not shift:
        return x
    image = einops.rearrange(x, "b (h w) d -> b h w d", h=grid[0])
    return einops.rearrange(jnp.roll(image, (-shift, -shift), axis=(1, 2)), "b h w d -> b (h w) d")


def shift_mask(grid: Pair, window: Pair, shift: int) -> Float[np.ndarray, "W T T"]:
    """0 between tokens of a window that are neighbours in the image, -100 between those that only the roll brought
    together (Swin, section 3.2, "efficient batch computation")."""

    def bands(side: int, length: int) -> np.ndarray:
        # Three bands of rows (or columns): whole windows, and the two parts of the windows cut by the edge.
        return np.searchsorted([side - length, side - shift], np.arange(side), side="right")

    region = bands(grid[0], window[0])[:, None] * 3 + bands(grid[1], window[1])[None]
    p, q = window
    by_window = einops.rearrange(region, "(h p) (w q) -> (h w) (p q)", p=p, q=q)
    return np.where(by_window[:, :, None] == by_window[:, None], 0.0, APART).astype(np.float32)


def log_coordinates(window: Pair, pretrained: Pair | None = None) -> Float[np.ndarray, "R 2"]:
    """Log-spaced offsets of Swin V2 (equation 4), one row per row of a relative table.

    sign(x) log2(1 + |x|) / 3 with x = 8 offset / (side - 1): offsets in the unit of the largest one, of the window
    that was pretrained where the present window is another. A window of one token has no offset but 0.
    """
    scale = [8.0 / max(side - 1, 1) for side in pretrained or window]
    rows, columns = (np.arange(1 - side, side) * s for side, s in zip(window, scale, strict=True))
    offsets = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    return (np.sign(offsets) * np.log2(np.abs(offsets) + 1.0) / np.log2(8.0)).astype(np.float32)


class PositionMlp(nn.Module):
    """Continuous relative position bias (Swin V2, section 3.3): 16 sigmoid(mlp(log-spaced offset)), float32."""

    heads: int
    window: Pair
    pretrained: Pair | None = None

    @nn.compact
    def __call__(self) -> Float[Array, "1 K T T"]:
        dense = partial(nn.Dense, kernel_init=NORMAL)
        hidden = jax.nn.relu(dense(POSITION_HIDDEN, name="fc1")(log_coordinates(self.window, self.pretrained)))
        table = 16.0 * jax.nn.sigmoid(dense(self.heads, use_bias=False, name="fc2")(hidden))
        return jnp.moveaxis(table[relative_index(self.window, cls_token=False)], -1, 0)[None]


def unit_length(x: Float[Array, "*S d"]) -> Float[Array, "*S d"]:
    """x / max(|x|, 1e-12), float32."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))


class WindowAttention(nn.Module):
    """Attention between the tokens of each window, with relative positions.

    cosine: Swin V2: cosine of queries and keys times a learned scale of at most 100, positions by `PositionMlp`, and
        no bias for k; else Swin: scaled products and a table of positions.
    bias: whether queries, keys and values have biases. shift: rows and columns by which the windows are moved.
    """

    grid: Pair
    window: Pair
    shift: int
    heads: int
    cosine: bool = False
    bias: bool = True
    pretrained: Pair | None = None
    dtype: Dtype = jnp.float32
    start: Init = Init(NORMAL)

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"], visible: VisibleWindows | None = None) -> Float[Array, "B N D"]:
        """Tokens of the whole grid, or those alone that `visible` was made for (with the same shift)."""
        width = x.shape[-1]
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=self.start.kernel, bias_init=self.start.bias)
        x = visible.gather(x) if visible else to_windows(roll(x, self.grid, self.shift), self.grid, self.window)
        # On a mesh with axis tensor XLA finds the heads by itself (`nn.heads_dense` spares the others an exchange).
        qkv = dense(3 * width, use_bias=self.bias and not self.cosine, name="qkv")(x)
        if self.bias and self.cosine:
            q_bias, v_bias = (self.param(name, nn.initializers.zeros, (width,)) for name in ("q_bias", "v_bias"))
            qkv = qkv + jnp.concatenate([q_bias, jnp.zeros(width), v_bias]).astype(qkv.dtype)
        q, k, v = einops.rearrange(qkv, "b w t (three k d) -> three b w k t d", three=3, k=self.heads)
        if self.cosine:
            scale = self.param("logit_scale", nn.initializers.constant(math.log(10.0)), (self.heads, 1, 1))
            scale = jnp.exp(jnp.minimum(scale, LARGEST_LOG_SCALE))
            q = unit_length(q) * (scale * (width // self.heads) ** 0.5)  # `attend` divides by the root
            q, k = q.astype(v.dtype), unit_length(k).astype(v.dtype)
            positions = PositionMlp(self.heads, self.window, self.pretrained, name="position_mlp")()
        else:
            positions = RelativeBias(self.heads, self.window, False, NORMAL, name="relative_bias")()
        if visible is not None:
            k, v, positions = visible.around(k, 3), visible.around(v, 3), visible.positions(positions)
        elif self.shift:
            positions = positions + shift_mask(self.grid, self.window, self.shift)[:, None]
        own = visible is not None and len(positions) > 1  # every image shows other tokens
        bias = positions if own or visible is None else positions[0]
        out = jax.vmap(attend, in_axes=(0, 0, 0, 0 if own else None))(q, k, v, bias)
        out = dense(width, name="proj")(einops.rearrange(out, "b w k t d -> b w t (k d)"))
        if visible is not None:
            return visible.scatter(out)
        return roll(from_windows(out, self.grid, self.window), self.grid, -self.shift)
