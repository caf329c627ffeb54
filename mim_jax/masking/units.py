"""Squares of several patches hidden together (SimMIM, Xie et al. CVPR 2022, section 3.2)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from mim_jax.errors import ConfigError
from mim_jax.masking.mask import Mask, mask_from_hidden


def unit_count(units: int, mask_ratio: float, where: str = "method.mask_ratio") -> int:
    """ceil(units * ratio), as the original rounds: 22 of 36 at 0.6.

    Raises:
        ConfigError: the ratio is not between 0 and 1, or hides every unit.
    """
    if not 0 < mask_ratio < 1:
        raise ConfigError(f"{where} {mask_ratio} must lie between 0 and 1 (both excluded), such as 0.6")
    count = math.ceil(units * mask_ratio)
    if count >= units:
        raise ConfigError(
            f"{where} {mask_ratio} hides all {units} mask units (the number is rounded up); choose a ratio of at most "
            f"{(units - 1) / units:.3g}, or a smaller method.mask_unit"
        )
    return count


def unit_grid(
    image_size: tuple[int, int], patch_size: tuple[int, int], unit: int, where: str = "method.mask_unit"
) -> tuple[int, int]:
    """The coarse grid of squares of `unit` pixels.

    Raises:
        ConfigError: the unit is not a multiple of the patch, or does not divide the image.
    """
    for name, size, patch in zip(("height", "width"), image_size, patch_size, strict=True):
        if unit < 1 or unit % patch or size % unit:
            valid = [u for u in range(patch, min(image_size) + 1) if _valid(image_size, patch_size, u)]
            hint = f"nearest that is both: {min(valid, key=lambda u: abs(u - unit))}" if valid else "none is both"
            raise ConfigError(
                f"{where} {unit} must be a multiple of the patch {name} {patch} and divide the image {name} {size}; "
                f"{hint}"
            )
    return image_size[0] // unit, image_size[1] // unit


def upsample(hidden: Bool[Array, "B h w"], grid: tuple[int, int]) -> Bool[Array, "B N"]:
    """Units as patches of the finer `grid`, raster order: every patch is as its unit is."""
    down, across = grid[0] // hidden.shape[1], grid[1] // hidden.shape[2]
    return jnp.repeat(jnp.repeat(hidden, down, axis=1), across, axis=2).reshape(len(hidden), -1)


def unit_tokens(units: Int[Array, "R V"], columns: int, side: int) -> Int[Array, "R N"]:
    """The tokens of some units, unit after unit and in raster order inside each, by their numbers in raster order of
    the finer grid. columns: units in a row. side: tokens along a side of a unit."""
    row, column = (x[:, :, None, None] * side for x in (units // columns, units % columns))
    inside = jnp.arange(side)
    numbers = (row + inside[:, None]) * (columns * side) + column + inside
    return numbers.reshape(len(units), -1)


def refined(mask: Mask, side: int) -> Mask:
    """A mask of units as one of their tokens, `side` along a side; both lists unit after unit."""
    grid = (mask.grid[0] * side, mask.grid[1] * side)
    visible, masked = (unit_tokens(x, mask.grid[1], side) for x in (mask.visible, mask.masked))
    return Mask(upsample(mask.hidden.reshape(-1, *mask.grid), grid), visible, masked, grid)


def shared_mask(key: PRNGKeyArray, batch: int, grid: tuple[int, int], count: int, group: int = 0) -> Mask:
    """Hides `count` cells drawn without replacement, the same in every `group` consecutive images (0: in all of the
    batch); lists in raster order."""
    group = group or batch
    noise = jax.random.uniform(key, (-(-batch // group), grid[0] * grid[1]))
    hidden = jnp.argsort(jnp.argsort(noise, axis=1), axis=1) < count
    return mask_from_hidden(jnp.repeat(hidden, group, axis=0)[:batch], count, grid)


def unit_mask(key: PRNGKeyArray, batch: int, units: tuple[int, int], grid: tuple[int, int], mask_ratio: float) -> Mask:
    """Hides ceil(ratio * units) units drawn without replacement, as a mask of the patches; lists in raster order."""
    total = units[0] * units[1]
    count = unit_count(total, mask_ratio)
    order = jnp.argsort(jax.random.uniform(key, (batch, total)), axis=1)
    hidden = (jnp.argsort(order, axis=1) < count).reshape(batch, *units)
    patches = count * (grid[0] // units[0]) * (grid[1] // units[1])
    return mask_from_hidden(upsample(hidden, grid), patches, grid)


def _valid(image_size: tuple[int, int], patch_size: tuple[int, int], unit: int) -> bool:
    return not any(unit % patch or size % unit for size, patch in zip(image_size, patch_size, strict=True))
