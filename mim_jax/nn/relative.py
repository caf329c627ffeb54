"""Relative position bias (Swin, section 3.2; BEiT with three extra rows for the class token)."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mim_jax.nn.init import ZEROS, Initializer


def relative_rows(grid: tuple[int, int], cls_token: bool = True) -> int:
    """Rows of the table: one per offset, and three more with a class token."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + (3 if cls_token else 0)


def relative_index(grid: tuple[int, int], cls_token: bool = True) -> Int[np.ndarray, "T T"]:
    """Row of the table for query i and key j, raster order, cls first.

    Patches: (row offset + h - 1) * (2 w - 1) + (column offset + w - 1), offset = query - key. With n rows in all, n-3
    is cls to patch, n-2 patch to cls, n-1 cls to cls.
    """
    rows, columns = (axis.ravel() for axis in np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij"))
    down = rows[:, None] - rows[None] + grid[0] - 1
    across = columns[:, None] - columns[None] + grid[1] - 1
    index = down * (2 * grid[1] - 1) + across
    if not cls_token:
        return index
    total = relative_rows(grid)
    out = np.full((len(index) + 1,) * 2, total - 1)
    out[1:, 1:], out[0, 1:], out[1:, 0] = index, total - 3, total - 2
    return out


class RelativeBias(nn.Module):
    """A learned table as a bias on the attention logits; starts at zero unless `start` says otherwise."""

    heads: int
    grid: tuple[int, int]
    cls_token: bool = True
    start: Initializer = ZEROS

    @nn.compact
    def __call__(self) -> Float[Array, "1 K T T"]:
        table = self.param("table", self.start, (relative_rows(self.grid, self.cls_token), self.heads))
        return jnp.moveaxis(table[relative_index(self.grid, self.cls_token)], -1, 0)[None].astype(jnp.float32)
