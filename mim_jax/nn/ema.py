"""Exponential moving averages and the ramps of their momentum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Tree = Any
Share = float | Float[Array, ""]


def ema_start(params: Tree) -> Tree:
    """A float32 copy of `params`, to start the moving average with."""
    return jax.tree.map(lambda p: jnp.array(p, jnp.float32, copy=True), params)


def ema_update(ema: Tree, params: Tree, decay: Share) -> Tree:
    """`decay * ema + (1 - decay) * params`, in float32."""
    return jax.tree.map(lambda e, p: e * decay + p.astype(jnp.float32) * (1.0 - decay), ema, params)


def shared_part(params: Tree, ema: Tree) -> Tree:
    """The entries of `params` that `ema` has too: a student may own parameters that its teacher lacks."""
    return {name: shared_part(params[name], e) if isinstance(e, Mapping) else params[name] for name, e in ema.items()}


def cosine_ramp(start: float, end: float, share: Share) -> Float[Array, ""]:
    """From `start` at share 0 of the run to `end` at share 1, half a cosine (DINO's teacher momentum)."""
    return end + (start - end) * (1.0 + jnp.cos(jnp.pi * jnp.clip(share, 0.0, 1.0))) / 2


def linear_ramp(start: float, end: float, share: Share) -> Float[Array, ""]:
    """From `start` at share 0 to `end` at share 1, straight (I-JEPA's target momentum)."""
    return jnp.asarray(start + (end - start) * jnp.clip(share, 0.0, 1.0))
