"""Rotary positions in two dimensions (Su et al. 2021; EVA-02, Fang et al. 2023): queries and keys are turned by angles
that grow with their place, so that a product of the two depends on how far apart they are."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mim_jax.errors import ConfigError


def rotary_table(
    grid: tuple[int, int], width: int, reference: int = 0, base: float = 10000.0
) -> Float[np.ndarray, "2 N d"]:
    """Cosines and sines of every patch of a grid, raster order, float32, for heads of `width` channels.

    The first half of the channels turns with the ROW, the second with the column. Adjacent channels are one pair with
    one angle: t * base^(-2 j / h) for pair j of a half of h channels. Positions count in units of a grid with
    `reference` rows and columns, t = 0, 1, ... times reference / side, so that a finer grid lies between its places; 0
    takes t = 0, 1, ... on every grid (CroCo v2, base 100).

    Other codes pair channel j of a half with channel j + h / 2 (CroCo v2). That is the same network with the channels
    of each head in another order; `interop` reorders the weights, see `interleaved` there.

    Raises:
        ConfigError: the width is not a multiple of 4.
    """
    if width % 4:
        raise ConfigError(f"heads of width {width} must be a multiple of 4 for rotary positions; try other model.heads")
    frequencies = np.repeat(base ** (-np.arange(0, width // 2, 2) / (width // 2)), 2)
    rows, columns = (np.arange(side) / side * (reference or side) for side in grid)
    down = np.broadcast_to((rows[:, None] * frequencies)[:, None], (*grid, width // 2))
    across = np.broadcast_to((columns[:, None] * frequencies)[None], (*grid, width // 2))
    angles = np.concatenate([down, across], axis=-1).reshape(-1, width)
    return np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)


def unturned_before(table: Float[Array, "2 B T d"], count: int) -> Float[Array, "2 B S d"]:
    """The table with rows that turn nothing before it, for tokens without a place."""
    still = jnp.asarray([1.0, 0.0], table.dtype)[:, None, None, None]
    return jnp.concatenate([jnp.broadcast_to(still, (2, table.shape[1], count, table.shape[3])), table], axis=2)


def rotate(x: Float[Array, "B K T d"], table: Float[Array, "2 #B T d"]) -> Float[Array, "B K T d"]:
    """Each pair of channels (a, b) as (a cos - b sin, b cos + a sin), in float32; the result has the type of `x`."""
    turned = jnp.stack([-x[..., 1::2], x[..., ::2]], axis=-1).reshape(x.shape)
    cosines, sines = table[:, :, None]
    return (x * cosines + turned * sines).astype(x.dtype)
