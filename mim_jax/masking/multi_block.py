"""I-JEPA's multi-block masks: several target blocks and a large context without them, as a pure function of a key."""

from __future__ import annotations

import dataclasses
import math
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mim_jax.errors import ConfigError
from mim_jax.masking.mask import Mask

RETRIES = 20  # failures after which one target block fewer is taken out of the context
FINEST = 2**24  # uniform float32 numbers are multiples of 1 / FINEST
Pair = tuple[int | float, ...]


class Blocks(struct.PyTreeNode):
    """Patch numbers of context and target blocks, raster order inside a block; every array leads with the batch axis.

    context: Int[B, E, L]; target: Int[B, K, M]. The lengths are static; context_valid and target_valid (Bool, same
    shapes) are False where an entry only fills a block up. Such an entry repeats the first number of its block.
    """

    context: Any
    context_valid: Any
    target: Any
    target_valid: Any


def block_size(uniform: float, grid: tuple[int, int], scale: Pair, aspect_ratio: Pair) -> tuple[int, int]:
    """(height, width) of a block, in patches (Assran et al. 2023, appendix A.1).

    The SAME uniform number sets the area, `scale` times that of the grid, and the aspect ratio, height / width. Sides
    are rounded half to even and stay below those of the grid.
    """
    area = int(grid[0] * grid[1] * (scale[0] + uniform * (scale[1] - scale[0])))
    aspect = aspect_ratio[0] + uniform * (aspect_ratio[1] - aspect_ratio[0])
    height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    return min(height, grid[0] - 1), min(width, grid[1] - 1)


@lru_cache
def block_sizes(grid: tuple[int, int], scale: Pair, aspect_ratio: Pair) -> tuple[tuple[float, int, int], ...]:
    """`block_size` as a step function: (first uniform number, height, width) of every step, ascending.

    The device looks sizes up here, so they are those of double precision to the last float32 uniform number.
    """
    patches = grid[0] * grid[1]
    spans = (scale[1] - scale[0]) * patches, aspect_ratio[1] - aspect_ratio[0]
    jumps = [0.0]  # where the area, or for a given area one of the sides, may change
    for area in range(int(patches * scale[0]), int(patches * scale[1]) + 2):
        if spans[0] > 0:
            jumps.append((area - patches * scale[0]) / spans[0])
        if spans[1] > 0 and area > 0:
            squares = (np.arange(math.ceil(math.sqrt(area * max(aspect_ratio[1], 1 / aspect_ratio[0]))) + 1) + 0.5) ** 2
            aspects = np.concatenate([squares / area, area / squares])
            jumps += ((aspects - aspect_ratio[0]) / spans[1]).tolist()
    near = {round(u * FINEST) + step for u in jumps if 0 <= u <= 1 for step in range(-2, 3)}
    steps: list[tuple[float, int, int]] = []
    for number in sorted(n for n in near if 0 <= n < FINEST):
        size = block_size(number / FINEST, grid, scale, aspect_ratio)
        if not steps or size != steps[-1][1:]:
            steps.append((number / FINEST, *size))
    return tuple(steps)


@dataclasses.dataclass(frozen=True)
class MultiBlock:
    """How contexts and targets are drawn; the defaults are I-JEPA's.

    group: consecutive images that share block sizes and lengths (the batch of one device in the original); 0: all.
    context_length: static length of a context; 0: the largest that can occur. A shorter one cuts longer contexts off
        as the original cuts them to the shortest of the batch, which is nearly always shorter still.
    """

    grid: tuple[int, int]
    context_scale: Pair = (0.85, 1.0)
    target_scale: Pair = (0.15, 0.2)
    aspect_ratio: Pair = (0.75, 1.5)  # of targets; contexts are square
    context_blocks: int = 1
    target_blocks: int = 4
    min_keep: int = 10
    allow_overlap: bool = False
    group: int = 0
    context_length: int = 0

    @property
    def target_sizes(self) -> tuple[tuple[float, int, int], ...]:
        return block_sizes(self.grid, self.target_scale, self.aspect_ratio)

    @property
    def context_sizes(self) -> tuple[tuple[float, int, int], ...]:
        return block_sizes(self.grid, self.context_scale, (1.0, 1.0))

    @property
    def target_capacity(self) -> int:
        """Static length of a target block."""
        return max(h * w for _, h, w in self.target_sizes)

    @property
    def context_capacity(self) -> int:
        """Static length of a context block: what is asked for, at most the largest that can occur."""
        largest = max(self._largest_context(c[1:], t[1:]) for c in self.context_sizes for t in self.target_sizes)
        return min(self.context_length or largest, largest)

    def _largest_context(self, context: tuple[int, ...], target: tuple[int, ...]) -> int:
        whole = context[0] * context[1]
        # While a single target block cannot empty the context, at least one is always taken out of it.
        if self.allow_overlap or whole - target[0] * target[1] <= self.min_keep:
            return whole
        # No block reaches the last row or column, so two of them share at least this much.
        rows, columns = (max(0, c + t - (g - 1)) for c, t, g in zip(context, target, self.grid, strict=True))
        return whole - rows * columns

    def check(self, where: str = "method") -> None:
        """Refuses what cannot be drawn.

        Raises:
            ConfigError: names the key, the value and what would do.
        """
        grid = f"a grid of {self.grid[0]} x {self.grid[1]} patches"
        if min(self.grid) < 2:
            raise ConfigError(f"{where}: blocks need a grid of at least 2 x 2 patches, and this is {grid}")
        for key in ("context_scale", "target_scale", "aspect_ratio"):
            pair = getattr(self, key)
            highest = math.inf if key == "aspect_ratio" else 1.0
            if len(pair) != 2 or not 0 < pair[0] <= pair[1] <= highest:
                limit = "above 0" if key == "aspect_ratio" else "above 0 and at most 1"
                raise ConfigError(f"{where}.{key} {pair} must be (smallest, largest), both {limit}")
        for key, least in (("context_blocks", 1), ("target_blocks", 1), ("min_keep", 0), ("group", 0)):
            if getattr(self, key) < least:
                name = "mask_group" if key == "group" else key
                raise ConfigError(f"{where}.{name} {getattr(self, key)} must be at least {least}")
        for key, sizes in (("target_scale", self.target_sizes), ("context_scale", self.context_sizes)):
            least = min(h * w for _, h, w in sizes)
            if least <= self.min_keep:
                raise ConfigError(
                    f"{where}.min_keep {self.min_keep} asks for more patches than the {least} that blocks of "
                    f"{where}.{key} {getattr(self, key)} can have on {grid}; "
                    + (f"try {where}.min_keep {least - 1}" if least else f"raise {where}.{key}")
                )
        smallest = min(h * w for _, h, w in self.context_sizes)
        if smallest <= self.target_capacity:
            raise ConfigError(
                f"{where}.context_scale {self.context_scale} gives contexts of {smallest} patches on {grid}, no more "
                f"than the {self.target_capacity} of a target block; raise it, or lower {where}.target_scale"
            )
        if self.context_length and self.context_length <= self.min_keep:
            raise ConfigError(
                f"{where}.context_length {self.context_length} must be above {where}.min_keep {self.min_keep}, or 0"
            )

    def draw(self, key: PRNGKeyArray, batch: int) -> tuple[Mask, Blocks]:
        """Context and target blocks of a batch; hidden is what is in no context.

        Every context is cut to the shortest of its group, keeping its FIRST patches, so its bottom rows go.
        """
        group = jnp.arange(batch) // (self.group or batch)
        groups = -(-batch // (self.group or batch))
        size_key, place_key = jax.random.split(key)
        uniform = jax.random.uniform(size_key, (groups, 2))[group]
        target_size, context_size = (
            look_up(self.target_sizes, uniform[:, 0]),
            look_up(self.context_sizes, uniform[:, 1]),
        )
        corners, context = jax.vmap(self._place)(jax.random.split(place_key, batch), target_size, context_size)

        context = context.reshape(batch, self.context_blocks, -1)
        length = jax.ops.segment_min(context.sum(-1).min(-1), group, groups)[group]
        length = jnp.minimum(length, self.context_capacity)[:, None, None]
        kept = context & (jnp.cumsum(context, axis=-1) <= length)
        numbers = jnp.argsort(~kept, axis=-1, stable=True)[..., : self.context_capacity]
        valid = jnp.broadcast_to(jnp.arange(self.context_capacity) < length, numbers.shape)
        numbers = jnp.where(valid, numbers, numbers[..., :1])

        target, target_valid = self._target_numbers(corners, target_size)
        return Mask(hidden=~kept.any(1), grid=self.grid), Blocks(numbers, valid, target, target_valid)

    def _target_numbers(self, corners: Int[Array, "B K 2"], size: Int[Array, "B 2"]):
        entry = jnp.arange(self.target_capacity)
        height, width = size[:, 0, None, None], size[:, 1, None, None]
        valid = jnp.broadcast_to(entry < height * width, (*corners.shape[:2], len(entry)))
        entry = jnp.where(valid, entry, 0)
        rows, columns = corners[..., :1] + entry // width, corners[..., 1:] + entry % width
        return rows * self.grid[1] + columns, valid

    def _place(self, key: PRNGKeyArray, target_size: Int[Array, "2"], context_size: Int[Array, "2"]):
        """Corners of the targets of one image (K, 2), and its contexts (E, h, w) as booleans."""
        target_key, context_key = jax.random.split(key)
        corners = self._corners(target_key, target_size, self.target_blocks)
        outside = ~jax.vmap(self._rectangle, (0, None))(corners, target_size)
        # Row n: what the first n targets leave.
        left = jnp.cumprod(jnp.concatenate([jnp.ones((1, *self.grid), bool), outside]), axis=0).astype(bool)
        left = jnp.ones_like(left) if self.allow_overlap else left

        def attempt(key, number):
            corner = self._corners(jax.random.fold_in(key, number), context_size, 1)[0]
            return self._rectangle(corner, context_size) & left[self.target_blocks - number // RETRIES]

        def unfinished(state):
            _, number, context = state
            return (context.sum() <= self.min_keep) & (number <= RETRIES * self.target_blocks)

        def context(key):
            start = (key, 0, jnp.zeros(self.grid, bool))
            return jax.lax.while_loop(unfinished, lambda s: (s[0], s[1] + 1, attempt(*s[:2])), start)[2]

        return corners, jax.vmap(context)(jax.random.split(context_key, self.context_blocks))

    def _corners(self, key: PRNGKeyArray, size: Int[Array, "2"], count: int) -> Int[Array, "count 2"]:
        # The upper end is excluded as in the original, so no block touches the last row or column.
        return jax.random.randint(key, (count, 2), 0, jnp.asarray(self.grid) - size)

    def _rectangle(self, corner: Int[Array, "2"], size: Int[Array, "2"]) -> Bool[Array, "h w"]:
        rows, columns = jnp.arange(self.grid[0])[:, None], jnp.arange(self.grid[1])[None]
        down, across = rows - corner[0], columns - corner[1]
        return (down >= 0) & (down < size[0]) & (across >= 0) & (across < size[1])


def look_up(sizes: tuple[tuple[float, int, int], ...], uniform: Float[Array, "B"]) -> Int[Array, "B 2"]:
    """(height, width) for every uniform number, from a table of `block_sizes`."""
    starts, values = jnp.asarray([s[0] for s in sizes], jnp.float32), jnp.asarray([s[1:] for s in sizes])
    return values[jnp.searchsorted(starts, uniform, side="right") - 1]
