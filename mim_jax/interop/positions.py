"""Position tables that one side stores and the other computes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from mim_jax.models.vit import fixed_positions
from mim_jax.models.vit_config import VitConfig
from mim_jax.nn.relative import relative_index

FIXED = "the fixed sin-cos table is computed, not stored"
FIXED_KINDS = ("sincos", "sincos_row")


def fixed_table(config: VitConfig, classifier: bool = False) -> Float[np.ndarray, "1 T D"] | None:
    """The table that an encoder computes and a file must hold; None where it is a parameter, or there is none.

    classifier: fine-tuning makes `sincos` a parameter (`models.classifier`).
    """
    kinds = ("sincos_row", "sincos_cae") if classifier else ("sincos", "sincos_row", "sincos_cae")
    return fixed_positions(config, config.grid)[None] if config.positions in kinds else None


def kind_of_table(table: Any, config: VitConfig) -> str:
    """The value of `model.positions` for a stored table: that of a fixed one which it equals, or 'learned'.

    config: of the encoder that the table is for, whatever its positions. To within float32's rounding, because
    libraries compute the table in different orders.
    """
    table = np.asarray(table)
    for kind in FIXED_KINDS:
        if config.width % 4 == 0:
            fixed = fixed_positions(dataclasses.replace(config, positions=kind), config.grid)
            if table.shape[-2:] == fixed.shape and np.abs(table.reshape(fixed.shape) - fixed).max() < 1e-6:
                return kind
    return "learned"


def relative_indices(config: VitConfig, prefix: str = "") -> dict[str, Any]:
    """The index of every table of relative positions, under BEiT's names: which row a pair of positions reads."""
    where = {"shared": ["rel_pos_bias"], "per_block": [f"blocks.{i}.attn" for i in range(config.depth)], "none": []}
    index = relative_index(config.grid, config.cls_token)
    return {f"{prefix}{name}.relative_position_index": index for name in where[config.relative_bias]}
