"""Masks whose ratio is drawn anew for every image (iBOT), as a pure function of a key."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mim_jax.errors import ConfigError
from mim_jax.masking.block import block_hidden

SHAPES = ("block", "random")


def mixed_ratios(
    key: PRNGKeyArray, batch: int, ratios: tuple[float, ...], spreads: tuple[float, ...]
) -> Float[Array, "B"]:
    """One ratio per image: an entry of `ratios`, each as likely, plus or minus up to its `spreads`, uniform."""
    choice_key, spread_key = jax.random.split(key)
    choice = jax.random.randint(choice_key, (batch,), 0, len(ratios))
    centre, spread = (jnp.asarray(values, jnp.float32)[choice] for values in (ratios, spreads))
    return centre + spread * jax.random.uniform(spread_key, (batch,), minval=-1.0, maxval=1.0)


def mixed_ratio_hidden(
    key: PRNGKeyArray,
    batch: int,
    grid: tuple[int, int],
    ratios: tuple[float, ...],
    spreads: tuple[float, ...],
    shape: str = "block",
    share: float | Float[Array, ""] = 1.0,
    min_aspect: float = 0.3,
) -> Bool[Array, "B N"]:
    """Hidden patches, raster order (iBOT, section 4.1 and the released loader).

    With r an image's ratio and N its patches: `block` hides rectangles until r N patches (not rounded) are hidden or
    ten tries in a row fail; a rectangle has at least about (min(h, w) // 3)^2 patches. `random` hides int(r N).
    share: multiplies every ratio; 0 hides nothing (before the epoch in which masking starts).
    """
    ratio_key, mask_key = jax.random.split(key)
    tokens = grid[0] * grid[1]
    count = mixed_ratios(ratio_key, batch, ratios, spreads) * share * tokens
    if shape == "block":
        return block_hidden(mask_key, batch, grid, count, min_block=(min(grid) // 3) ** 2, min_aspect=min_aspect)
    rank = jnp.argsort(jnp.argsort(jax.random.uniform(mask_key, (batch, tokens)), axis=1), axis=1)
    return rank < jnp.floor(count)[:, None]


def check_masking(
    shape: str, ratios: tuple[float, ...], spreads: tuple[float, ...], start_epoch: int, tokens: int
) -> None:
    """Refuses an unknown shape, ratios that are none, and ratios that never hide a patch.

    Raises:
        ConfigError: names the key, the value and the values that are allowed.
    """
    if shape not in SHAPES:
        raise ConfigError(f"method.masking '{shape}' is not one of {', '.join(SHAPES)}")
    if start_epoch < 0:
        raise ConfigError(f"method.mask_start_epoch {start_epoch} must be 0 or more")
    if not ratios or len(ratios) != len(spreads):
        raise ConfigError(
            f"method.mask_ratio has {len(ratios)} entries and method.mask_ratio_spread {len(spreads)}; each ratio "
            "needs its spread, such as (0.0, 0.3) with (0.0, 0.2)"
        )
    for ratio, spread in zip(ratios, spreads, strict=True):
        if not 0 <= ratio < 1:
            raise ConfigError(f"method.mask_ratio {ratio} must be at least 0 and below 1, such as 0.3")
        if spread < 0 or ratio - spread < 0 or ratio + spread >= 1:
            raise ConfigError(
                f"method.mask_ratio_spread {spread} around the ratio {ratio} must be at least 0 and stay within 0 and "
                f"1; the largest is {min(ratio, 1 - ratio):g}"
            )
    highest = max(ratio + spread for ratio, spread in zip(ratios, spreads, strict=True))
    if highest * tokens < 1:
        raise ConfigError(
            f"method.mask_ratio {ratios} never hides one of {tokens} patches; one must be {1 / tokens:.3g} or more"
        )
