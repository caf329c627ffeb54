"""Masks made from a teacher's attention, as pure functions of it and of uniform noise."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from mim_jax.masking.mask import Mask, mask_from_noise


def importance_mask(
    noise: Float[Array, "B N"], importance: Float[Array, "B N"], visible_count: int, grid: tuple[int, int]
) -> Mask:
    """Keeps `visible_count` patches, drawn one after the other without replacement, each as likely as it is important
    among those that are left; in the order of the draws (MaskAlign, section 3.2; MILAN).

    noise: uniform in (0, 1). A patch comes after an exponential time whose rate is its importance (-log of the noise
    over it), which is the same as drawing them in turn; a patch of no importance comes last.
    """
    times = -jnp.log(noise) / jnp.maximum(importance.astype(jnp.float32), 1e-30)
    return mask_from_noise(times, visible_count, grid)
