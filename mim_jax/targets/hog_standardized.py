"""Histograms of oriented gradients whose bins are standardised, not brought to length one (DMJD, Ma et al. 2023)."""

from __future__ import annotations

import einops
import jax.numpy as jnp
from jaxtyping import Array, Float

from mim_jax.targets.features import normalize_features

BINS = 9
LEVELS = 255.0


def cell_histograms(pixels: Float[Array, "B H W C"], cell: int = 8) -> Float[Array, "B h w C k"]:
    """Votes per cell of `cell` pixels, each channel for itself, divided by the pixels of a cell; float32.

    Differences of the neighbours on both sides, zero at the border; each pixel votes with the length of its gradient
    for the one of nine unsigned orientations, of 20 degrees each from ACROSS on, in which it falls. Two opposite
    directions are one orientation: 0 and 180 degrees are both in bin 0.
    """
    pixels = pixels.astype(jnp.float32)
    down = jnp.pad(pixels[:, 2:] - pixels[:, :-2], ((0, 0), (1, 1), (0, 0), (0, 0)))
    across = jnp.pad(pixels[:, :, 2:] - pixels[:, :, :-2], ((0, 0), (0, 0), (1, 1), (0, 0)))
    # Said apart, because half a turn is at the edge of a bin, and programs round it differently.
    angle = jnp.where(down == 0, 0.0, jnp.mod(jnp.rad2deg(jnp.arctan2(down, across)), 180.0))
    chosen = jnp.floor(angle / (180.0 / BINS))
    votes = jnp.where(chosen[..., None] == jnp.arange(BINS), jnp.hypot(across, down)[..., None], 0.0)
    return einops.reduce(votes, "b (h p) (w q) c k -> b h w c k", "mean", p=cell, q=cell)


def standardized_hog(
    images: Float[Array, "B H W C"], patch_size: tuple[int, int], cell: int = 8
) -> Float[Array, "B N V"]:
    """The nine bins of each cell and channel with mean 0 and variance 1, the cells of each patch together.

    images: pixels in [0, 1], which are first brought back to whole numbers up to 255, as the authors take gradients.
    Value ((cell row * cell columns + cell column) * bins + bin) * channels + channel; patches in raster order.
    """
    histograms = normalize_features(cell_histograms(jnp.round(images * LEVELS), cell))
    p, q = patch_size[0] // cell, patch_size[1] // cell
    return einops.rearrange(histograms, "b (h p) (w q) c k -> b (h w) (p q k c)", p=p, q=q)


def as_glyph_values(values: Float[Array, "B N V"], cells: tuple[int, int], channels: int) -> Float[Array, "B N V"]:
    """The same bins in the order that `targets.hog.glyphs` draws, which counts orientations from DOWN on."""
    bins = (BINS // 2 - jnp.arange(BINS)) % BINS
    parts = einops.rearrange(values, "b n (p q k c) -> b n c k p q", p=cells[0], q=cells[1], c=channels)[:, :, :, bins]
    return einops.rearrange(parts, "b n c k p q -> b n (c k p q)")
