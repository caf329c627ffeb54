"""Position tables: two-dimensional sin-cos, and the resize between grids."""

from __future__ import annotations

import einops
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mim_jax.errors import ConfigError


def sincos_2d(grid: tuple[int, int], width: int, prefix: int = 1, row_first: bool = False) -> Float[np.ndarray, "T D"]:
    """Fixed sin-cos table (MAE, appendix A.1), float32, raster order, after `prefix` rows of zeros for class tokens.

    q = D / 4 frequencies w_k = 10000^(-k/q); a position t gives [sin(t w), cos(t w)]. The FIRST half of the channels
    is the COLUMN, the second the row, unless `row_first` (CAE) swaps the halves.

    Raises:
        ConfigError: the width is not a multiple of 4.
    """
    if width % 4:
        raise ConfigError(
            f"width {width} must be a multiple of 4 for a sin-cos position table; try {width // 4 * 4 + 4}"
        )
    frequencies = 10000.0 ** (-np.arange(width // 4, dtype=np.float64) / (width // 4))

    def embed(positions: np.ndarray) -> np.ndarray:
        angles = positions[:, None] * frequencies
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    rows, columns = np.meshgrid(
        np.arange(grid[0], dtype=np.float64), np.arange(grid[1], dtype=np.float64), indexing="ij"
    )
    first, second = (rows, columns) if row_first else (columns, rows)
    table = np.concatenate([embed(first.ravel()), embed(second.ravel())], axis=1)
    return np.concatenate([np.zeros((prefix, width)), table]).astype(np.float32)


def cubic_matrix(size_in: int, size_out: int, a: float = -0.75, offset: float = 0.0) -> Float[np.ndarray, "out in"]:
    """Matrix of one-dimensional cubic interpolation, half-pixel centres, edges repeated, no antialias.

    `a` is the coefficient of the cubic kernel: -0.75 in PyTorch, -0.5 in Pillow and jax.image. `offset` is added to
    `size_out` where coordinates are scaled, not where positions are counted.
    """
    centre = (np.arange(size_out) + 0.5) * (size_in / (size_out + offset)) - 0.5
    base = np.floor(centre).astype(int)
    matrix = np.zeros((size_out, size_in))
    for offset in range(-1, 3):
        x = np.abs(centre - (base + offset))
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        weight = np.where(x <= 1, near, np.where(x < 2, far, 0.0))
        np.add.at(matrix, (np.arange(size_out), np.clip(base + offset, 0, size_in - 1)), weight)
    return matrix.astype(np.float32)


def antialiased_matrix(size_in: int, size_out: int) -> Float[np.ndarray, "out in"]:
    """Matrix of one-dimensional cubic interpolation with antialias: a = -0.5, and where the size shrinks a kernel
    stretched by as much; weights beyond the edges are left out, and the others made to sum to one."""
    with jax.ensure_compile_time_eval():
        return np.asarray(jax.image.resize(jnp.eye(size_in), (size_out, size_in), "cubic", antialias=True))


def resize_positions(
    table: Float[Array, "*B T D"],
    grid: tuple[int, int],
    new_grid: tuple[int, int],
    prefix: int = 1,
    offset: float = 0.0,
    antialias: bool = False,
) -> Float[Array, "*B S D"]:
    """A position table for another grid, half-pixel centres; prefix rows are copied.

    Bicubic with a = -0.75 and without antialias, as PyTorch's `interpolate` does it (DeiT, MAE, CLIP, DINOv2 in
    transformers), unless `antialias`: then a = -0.5 with a kernel as wide as a smaller grid asks, as PyTorch does it
    with `antialias=True` (timm; DINOv2 with registers). The two differ for larger grids too.
    offset: 0.1 in DINO and iBOT and the authors' DINOv2, whose coordinates are scaled by (new side + 0.1) / side.

    Raises:
        ConfigError: the table does not have prefix + h * w rows.
    """
    if table.shape[-2] != prefix + grid[0] * grid[1]:
        raise ConfigError(
            f"a position table of {table.shape[-2]} rows is not {prefix} + {grid[0]} x {grid[1]}; give its true grid"
        )
    if grid == new_grid:
        return table
    patches = einops.rearrange(table[..., prefix:, :], "... (h w) d -> ... h w d", h=grid[0], w=grid[1])
    matrices = (
        antialiased_matrix(old, new) if antialias else cubic_matrix(old, new, offset=offset)
        for old, new in zip(grid, new_grid, strict=True)
    )
    rows, columns = matrices
    patches = jnp.einsum("Hh,Ww,...hwd->...HWd", rows, columns, patches, precision="highest")
    patches = einops.rearrange(patches, "... h w d -> ... (h w) d")
    return jnp.concatenate([table[..., :prefix, :], patches], axis=-2)
