"""Masks that hide the same number of patches in every image, blocks or single ones, both lists in raster order."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, Shaped

from mim_jax.errors import ConfigError
from mim_jax.masking.block import block_mask
from mim_jax.masking.mask import Mask, mask_from_hidden

MASKINGS = ("block", "random")


@dataclasses.dataclass(frozen=True)
class RasterMasking:
    """How CAE hides patches (section 4.1; its released generator).

    kind: block (rectangles until the count is exact) | random. num_mask_patches: how many; 0 takes
    int(mask_ratio * patches). min_block: smallest area that a rectangle is drawn with.
    """

    kind: str = "block"
    num_mask_patches: int = 0
    mask_ratio: float = 0.5
    min_block: int = 16

    def count(self, tokens: int) -> int:
        """Hidden patches of `tokens`."""
        return self.num_mask_patches or int(self.mask_ratio * tokens)

    def draw(self, key: PRNGKeyArray, batch: int, grid: tuple[int, int]) -> Mask:
        """A mask per image."""
        tokens = grid[0] * grid[1]
        count = self.count(tokens)
        if self.kind == "block":
            return block_mask(key, batch, grid, count, min_block=self.min_block)
        order = jnp.argsort(jax.random.uniform(key, (batch, tokens)), axis=1)
        return mask_from_hidden(order < count, count, grid)

    def check(self, grid: tuple[int, int]) -> None:
        """Refuses what cannot be drawn on this grid.

        Raises:
            ConfigError: names the key of the section `method`, the value and what serves.
        """
        tokens = grid[0] * grid[1]
        if self.kind not in MASKINGS:
            raise ConfigError(f"method.masking '{self.kind}' is not one of {', '.join(MASKINGS)}")
        if not self.num_mask_patches and not 0 < self.mask_ratio < 1:
            raise ConfigError(f"method.mask_ratio {self.mask_ratio} must lie between 0 and 1 (both excluded)")
        if not 0 < self.count(tokens) < tokens:
            key = "num_mask_patches" if self.num_mask_patches else "mask_ratio"
            raise ConfigError(
                f"method.{key} {getattr(self, key)} hides {self.count(tokens)} of {tokens} patches; at least one must "
                "be hidden and one visible"
            )
        # A rectangle's sides are below the grid's, and its first draw has an area of at least min_block.
        largest = (grid[0] - 1) * (grid[1] - 1)
        if self.kind == "block" and not 0 < self.min_block <= largest:
            raise ConfigError(
                f"method.min_block {self.min_block} must be between 1 and {largest}, the largest rectangle inside the "
                f"grid {grid[0]} x {grid[1]}"
            )


def place_masked(
    tokens: Shaped[Array, "B N *D"], values: Shaped[Array, "B M *D"], mask: Mask
) -> Shaped[Array, "B N *D"]:
    """`tokens` with the rows `mask.masked` replaced by `values`, which are in that order."""
    return jax.vmap(lambda row, new, where: row.at[where].set(new))(tokens, values, mask.masked)
