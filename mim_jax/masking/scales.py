"""A mask of patches seen at another scale."""

from __future__ import annotations

import einops
from jaxtyping import Array, Float

from mim_jax.masking.mask import Mask


def hidden_share(mask: Mask, doublings: int) -> Float[Array, "B C"]:
    """The share of every cell that is hidden, in raster order; float32.

    doublings: how often the grid's rows and columns are doubled (cells are 0 or 1); -1: cells of four patches, whose
    share is a quarter for each hidden one (LocalMIM's coarsest scale).
    """
    grid = mask.hidden.astype("float32").reshape(-1, *mask.grid)
    if doublings < 0:
        side = 2**-doublings
        return einops.reduce(grid, "b (h p) (w q) -> b (h w)", "mean", p=side, q=side)
    side = 2**doublings
    return einops.repeat(grid, "b h w -> b (h p w q)", p=side, q=side)
