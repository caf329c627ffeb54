"""A position table of one grid, resized for another."""

from __future__ import annotations

import jax.numpy as jnp

from mim_jax.errors import VerifyError
from mim_jax.interop.case import Case
from mim_jax.interop.compare import Result
from mim_jax.nn.positions import resize_positions


def run(case: Case) -> Result:
    """Rows of the table beyond those of the grid are class tokens and stay as they are."""
    table = jnp.asarray(case.inputs["pos_embed"])
    old, new = pair(case.config["grid_from"], "grid_from"), pair(case.config["grid_to"], "grid_to")
    prefix = table.shape[-2] - old[0] * old[1]
    if prefix < 0:
        raise VerifyError(f"{case.folder}: a table of {table.shape[-2]} rows holds no grid of {old[0]} x {old[1]}")
    return Result(arrays={"pos_embed_resized": resize_positions(table, old, new, prefix)})


def pair(value: int | list[int], key: str) -> tuple[int, int]:
    """(height, width) from one number or two.

    Raises:
        VerifyError: anything else; names `key`.
    """
    numbers = [value, value] if isinstance(value, int) else value
    if not isinstance(numbers, list) or len(numbers) != 2 or not all(isinstance(n, int) and n > 0 for n in numbers):
        raise VerifyError(f"config.{key} is {value!r}; it must be a positive whole number or a list of two")
    return numbers[0], numbers[1]
