"""Patches hidden independently of each other, or on a regular grid."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from mim_jax.errors import ConfigError
from mim_jax.masking.mask import Mask, mask_from_hidden, mask_from_noise


def visible_count(
    tokens: int, mask_ratio: float, where: str = "method.mask_ratio", to_int: Callable[[float], int] = int
) -> int:
    """int(tokens * (1 - ratio)), the truncation of the original: 196 patches at 0.9 keep 19.

    to_int: int (MAE and most) or round (SparK: to the nearest, exact halves to the even number).

    Raises:
        ConfigError: the ratio is not in [0, 1), or leaves nothing visible or nothing hidden.
    """
    if not 0 < mask_ratio < 1:
        raise ConfigError(f"{where} {mask_ratio} must lie between 0 and 1 (both excluded), such as 0.75")
    count = to_int(tokens * (1 - mask_ratio))
    if not 0 < count < tokens:
        raise ConfigError(
            f"{where} {mask_ratio} leaves {count} of {tokens} patches visible; at least one must be visible and one "
            f"hidden, so choose a ratio between {1 / tokens:.3g} and {1 - 1 / tokens:.3g}"
        )
    return count


def random_mask(
    key: PRNGKeyArray, batch: int, grid: tuple[int, int], mask_ratio: float, to_int: Callable[[float], int] = int
) -> Mask:
    """Uniform noise per patch; the smallest int(N * (1 - ratio)) stay visible, in shuffled order (MAE, section 3).

    to_int: how the number of visible patches is made whole, see `visible_count`.
    """
    tokens = grid[0] * grid[1]
    noise = jax.random.uniform(key, (batch, tokens))
    return mask_from_noise(noise, visible_count(tokens, mask_ratio, to_int=to_int), grid)


def grid_mask(batch: int, grid: tuple[int, int], stride: int = 2) -> Mask:
    """Keeps one patch of every stride x stride cell, its upper left one (MAE, table 1f, 'grid').

    Raises:
        ConfigError: the stride does not divide the grid.
    """
    if grid[0] % stride or grid[1] % stride:
        raise ConfigError(
            f"method.masking 'grid' keeps one patch per {stride} x {stride} cell, which the grid {grid} does not hold; "
            "choose another masking, or an image of an even number of patches a side"
        )
    rows, columns = jnp.arange(grid[0])[:, None], jnp.arange(grid[1])[None]
    hidden = ((rows % stride != 0) | (columns % stride != 0)).reshape(1, -1)
    hidden_count = hidden.shape[1] - (grid[0] // stride) * (grid[1] // stride)
    return mask_from_hidden(jnp.broadcast_to(hidden, (batch, hidden.shape[1])), hidden_count, grid)
