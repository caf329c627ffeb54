"""LAMB as SparK uses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optax

Tree = Any


def scale_by_lamb(
    adam: optax.GradientTransformation, decayed: optax.GradientTransformation, decay_mask: Callable[[Tree], Tree]
) -> optax.GradientTransformation:
    """The direction of a LAMB step, to be multiplied by minus the learning rate.

    `adam` makes the bias-corrected step, `decayed` adds weight decay to it, and the sum u of each parameter w is
    multiplied by `|w| / |u|` (1 where either norm is zero). Pitfall: in timm's LAMB, which SparK uses, parameters
    without weight decay take no trust ratio, so for them LAMB is Adam; the norms are per parameter, not per layer.
    LAMB (You et al. 2020), algorithm 2; SparK (Tian et al. 2023), appendix.
    """
    return optax.chain(adam, decayed, optax.masked(optax.scale_by_trust_ratio(), decay_mask))
