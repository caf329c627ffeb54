"""Where the tokens of a Swin transformer lie when it sees only some cells, a cell being a token of its last stage; and
what it costs then (GreenMIM, Huang et al. NeurIPS 2022; LocalMIM, Wang et al. CVPR 2023)."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Int

from mim_jax.masking.units import unit_tokens
from mim_jax.models.swin_config import SwinConfig
from mim_jax.nn import flops
from mim_jax.nn.visible_windows import VisibleWindows, chunk_sizes, visible_windows


def stage_tokens(config: SwinConfig, visible: Int[Array, "R V"], stage: int) -> Int[Array, "R N"]:
    """Tokens of a stage inside the cells `visible`, cell after cell, by their numbers in raster order."""
    return unit_tokens(visible, config.stage_grid(len(config.depths) - 1)[1], config.cell_side(stage))


def listed_tokens(config: SwinConfig, visible: Int[Array, "R V"], stage: int) -> Int[Array, "R N"]:
    """The same by their numbers in a list of all tokens that goes cell after cell."""
    area = config.cell_side(stage) ** 2
    return (visible[:, :, None] * area + jnp.arange(area)).reshape(len(visible), -1)


def stage_windows(
    config: SwinConfig, visible: Int[Array, "R V"], stage: int, listed: bool = False
) -> tuple[VisibleWindows, VisibleWindows]:
    """The windows of the even and of the odd blocks of a stage. listed: see `models.swin.Swin`."""
    tokens = (listed_tokens if listed and stage else stage_tokens)(config, visible, stage)
    grid, window, shift = config.stage_grid(stage), config.stage_window(stage), config.shift(stage, 1)
    plain = visible_windows(tokens, grid, (window, window), 0)
    return plain, visible_windows(tokens, grid, (window, window), shift) if shift else plain


def visible_swin_flops(config: SwinConfig, cells: int) -> float:
    """Forward FLOPs for one image of which so many cells are visible; tables of positions, which are made once per
    batch, are left out."""
    total = flops.dense(cells * config.cell_side(0) ** 2, config.patch_values, config.width)
    for stage, depth in enumerate(config.depths):
        tokens, width, heads = cells * config.cell_side(stage) ** 2, config.stage_width(stage), config.heads[stage]
        chunks, length, keys = chunk_sizes(tokens, config.stage_window(stage) ** 2)
        places, hidden = chunks * length, int(width * config.mlp_ratio)
        attention = flops.dense(places, width, 4 * width) + places * keys * (4 * width + 7 * heads)
        mlp = flops.dense(tokens, width, hidden) + flops.dense(tokens, hidden, width) + 8 * tokens * hidden
        total += depth * (attention + mlp + 16 * tokens * width)
        if stage < len(config.depths) - 1:
            total += flops.dense(tokens // 4, 4 * width, 2 * width)
    return total
