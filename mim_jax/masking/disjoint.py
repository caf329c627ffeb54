"""Two masks of one image that hide nearly all of it together (DMJD, Ma et al. 2023, section 3.2)."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mim_jax.errors import ConfigError
from mim_jax.masking.mask import Mask
from mim_jax.masking.random import visible_count

CELLS = {"block": 2, "random": 1}  # patches along the side of what is hidden together


def disjoint_counts(grid: tuple[int, int], masking: str, mask_ratio: float, covered: float) -> tuple[int, int, int]:
    """How many cells there are, how many each view sees, and how many that the first sees the second hides.

    covered: the share of the image that both hide together. All counts are truncated, as in the original.

    Raises:
        ConfigError: a grid that does not fall into cells, or shares that are not possible.
    """
    side = CELLS[masking]
    if grid[0] % side or grid[1] % side:
        raise ConfigError(
            f"method.masking '{masking}' hides cells of {side} x {side} patches, unlike the grid {grid}; choose "
            f"model.image_size so that the sides of the grid are multiples of {side}, or method.masking 'random'"
        )
    if not mask_ratio <= covered <= 1:
        raise ConfigError(f"method.prediction_ratio {covered} must be between method.mask_ratio {mask_ratio} and 1")
    cells = grid[0] * grid[1] // side**2
    return cells, visible_count(cells, mask_ratio), int(min(covered - mask_ratio, mask_ratio) * cells)


def disjoint_mask(
    key: PRNGKeyArray, batch: int, grid: tuple[int, int], masking: str, mask_ratio: float, covered: float = 1.0
) -> Mask:
    """A mask with an axis of two views after the batch's; see `disjoint_from_noise`.

    The choice within the lists is one for all images of the batch, as in the original; the lists differ.
    """
    cells, visible, _ = disjoint_counts(grid, masking, mask_ratio, covered)
    noise_key, seen_key, hidden_key = jax.random.split(key, 3)
    choices = (jax.random.permutation(seen_key, visible), jax.random.permutation(hidden_key, cells - visible))
    return disjoint_from_noise(
        jax.random.uniform(noise_key, (batch, cells)), *choices, grid, masking, mask_ratio, covered
    )


def disjoint_from_noise(
    noise: Float[Array, "B L"],
    seen_choice: Int[Array, " V"],
    hidden_choice: Int[Array, " M"],
    grid: tuple[int, int],
    masking: str,
    mask_ratio: float,
    covered: float = 1.0,
) -> Mask:
    """View 1 sees the cells of the smallest noise. View 2 hides the first `extra` that `seen_choice` names of them, and
    so many of the others, the first that `hidden_choice` names, that it hides as many.

    In both the visible patches are ordered by their corner of a cell, then as the cells are: what view 1 saw before
    what it did not.
    """
    _, visible, extra = disjoint_counts(grid, masking, mask_ratio, covered)
    first = jnp.argsort(noise, axis=1, stable=True)
    seen, hidden = first[:, :visible][:, seen_choice], first[:, visible:][:, hidden_choice]
    again = hidden.shape[1] - extra
    second = jnp.concatenate([seen[:, extra:], hidden[:, again:], seen[:, :extra], hidden[:, :again]], axis=1)
    order = jnp.stack([first, second], axis=1)
    parts = (order[..., :visible], order[..., visible:])
    shown, masked = (cell_patches(part, grid, CELLS[masking]) for part in parts)
    rank = jnp.argsort(jnp.concatenate([shown, masked], axis=-1), axis=-1)
    return Mask(rank >= shown.shape[-1], shown, masked, grid)


def cell_patches(cells: Int[Array, "*B L"], grid: tuple[int, int], side: int) -> Int[Array, "*B N"]:
    """The patches of cells of side x side: the upper left ones of all cells, then their right neighbours, and so on."""
    columns = grid[1] // side
    rows, across = cells // columns * side, cells % columns * side
    corners = itertools.product(range(side), repeat=2)
    return jnp.concatenate([(rows + down) * grid[1] + across + right for down, right in corners], axis=-1)
