"""Histograms of oriented gradients as the target (MaskFeat, Wei et al. CVPR 2022, section 3.1 and appendix)."""

from __future__ import annotations

import einops
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

NORM_FLOOR = 1e-12


SOBEL = ((1, 0, -1), (2, 0, -2), (1, 0, -1))


def gradients(images: Float[Array, "B H W C"]) -> tuple[Float[Array, "B H W C"], Float[Array, "B H W C"]]:
    """Sobel gradients (across, down) of every channel; the border is reflected.

    Terms are added row by row, as the original's convolution does: where neighbours across are equal (the border) the
    gradient is then exactly zero, and elsewhere rounding falls the same way; it decides the bin of pixels at an edge
    of bins. Downwards that order leaves rounding errors in flat regions, which the norm would blow up to a whole
    histogram (the original's does); where the rows are equal the gradient is zero here.
    """
    padded = jnp.pad(images.astype(jnp.float32), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")

    def correlate(kernel):
        total = jnp.zeros_like(images, jnp.float32)
        for row, weights in enumerate(kernel):
            for column, weight in enumerate(weights):
                if weight:
                    total += weight * padded[:, row : row + images.shape[1], column : column + images.shape[2]]
        return total

    differs = padded[:, :-2] != padded[:, 2:]
    differs = differs[:, :, :-2] | differs[:, :, 1:-1] | differs[:, :, 2:]
    return correlate(SOBEL), jnp.where(differs, correlate(tuple(zip(*SOBEL, strict=True))), 0.0)


def gaussian(window: int) -> Float[np.ndarray, "w w"]:
    """Weights of a window that sum to 1, deviation half the window (mmpretrain's variant)."""
    offsets = np.arange(window) - (window - 1) / 2
    line = np.exp(-0.5 * (offsets / (window // 2)) ** 2)
    weights = np.outer(line, line)
    return (weights / weights.sum()).astype(np.float32)


def hog(
    images: Float[Array, "B H W C"],
    cell: int | tuple[int, int] = 8,
    bins: int = 9,
    gaussian_window: int = 0,
    offset: Float[Array, "2"] | None = None,
) -> Float[Array, "B h w C bins"]:
    """Votes per cell of `cell` pixels (or rows and columns of them), each channel for itself, L2-normalised over the
    bins; float32.

    Every pixel votes with its gradient's magnitude for one of `bins` unsigned orientations over pi, without
    interpolation; atan2 takes (across, down) in this order. Normalised images go in, as the authors' code does.
    gaussian_window: weights votes by a tiled Gaussian of so many pixels (mmpretrain); 0: none (the authors).
    offset: added to all gradients (across, down), a random constant in LocalMIM's code for ViT-L.
    """
    across, down = gradients(images)
    if offset is not None:
        across, down = across + offset[0], down + offset[1]
    votes = jnp.sqrt(across**2 + down**2)
    phase = jnp.arctan2(across, down) / np.float32(np.pi) * bins
    chosen = jnp.mod(jnp.floor(phase).astype(int), bins)
    if gaussian_window:
        repeats = (images.shape[1] // gaussian_window, images.shape[2] // gaussian_window)
        votes = votes * np.tile(gaussian(gaussian_window), repeats)[None, :, :, None]
    per_bin = jnp.where(chosen[..., None] == jnp.arange(bins), votes[..., None], 0.0)
    rows, columns = (cell, cell) if isinstance(cell, int) else cell
    sums = einops.reduce(per_bin, "b (h p) (w q) c k -> b h w c k", "sum", p=rows, q=columns)
    return sums / jnp.maximum(jnp.linalg.norm(sums, axis=-1, keepdims=True), NORM_FLOOR)


def hog_target(
    images: Float[Array, "B H W C"], patch_size: tuple[int, int], cell: int = 8, bins: int = 9, gaussian_window: int = 0
) -> Float[Array, "B N V"]:
    """HOG of the cells of each patch, patches in raster order.

    Value (channel * bins + bin) * cells + cell row * cell columns + cell column, cells = those of a patch.
    """
    histograms = hog(images, cell, bins, gaussian_window)
    p, q = patch_size[0] // cell, patch_size[1] // cell
    return einops.rearrange(histograms, "b (h p) (w q) c k -> b (h w) (c k p q)", p=p, q=q)


def glyph_stamps(side: int, bins: int = 9) -> Float[np.ndarray, "bins s s"]:
    """A line along the edge that each bin stands for, `side` pixels square, values in [0, 1]."""
    rows, columns = np.meshgrid(*(np.arange(side) - (side - 1) / 2,) * 2, indexing="ij")
    stamps = []
    for angle in (np.arange(bins) + 0.5) / bins * np.pi:
        # The gradient points along (across, down) = (sin, cos); the edge lies at a right angle to it.
        distance = np.abs(columns * np.sin(angle) + rows * np.cos(angle))
        inside = np.hypot(rows, columns) <= side / 2
        stamps.append(np.clip(1.2 - distance, 0.0, 1.0) * inside)
    return np.asarray(stamps, np.float32)


def glyphs(
    target: Float[Array, "B N V"], grid: tuple[int, int], cells: tuple[int, int], channels: int, side: int = 16
) -> Float[Array, "B H W"]:
    """Pictures of a HOG target or prediction: one star of edges per cell, the mean of the channels, in [0, 1].

    cells: (rows, columns) of cells in a patch. side: pixels of a cell in the picture.
    """
    histograms = einops.rearrange(
        target.astype(jnp.float32),
        "b (h w) (c k p q) -> b (h p) (w q) c k",
        h=grid[0],
        c=channels,
        p=cells[0],
        q=cells[1],
    )
    strength = jnp.maximum(histograms.mean(-2), 0.0)
    stars = jnp.einsum("bhwk,kst->bhswt", strength, glyph_stamps(side, histograms.shape[-1]))
    return jnp.clip(einops.rearrange(stars, "b h s w t -> b (h s) (w t)"), 0.0, 1.0)
