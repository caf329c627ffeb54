"""LARS as MAE's linear probe uses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax

Tree = Any


def scale_by_lars(
    momentum: float, trust_coefficient: float, weight_decay: float, decay_mask: Callable[[Tree], Tree]
) -> optax.GradientTransformation:
    """The direction of a LARS step, to be multiplied by minus the learning rate.

    Weight decay and the trust ratio `trust_coefficient * |w| / |g + weight_decay * w|` (1 where either norm is zero)
    are for parameters with two or more dimensions only. Pitfall: the momentum buffer sums gradients that are already
    scaled by the trust ratio but not by the learning rate, so a change of the rate acts on the whole buffer at once.
    LARS (You et al. 2017), algorithm 1, in the variant of MAE (He et al. 2022), appendix A.1.
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=decay_mask),
        optax.masked(optax.scale_by_trust_ratio(trust_coefficient=trust_coefficient), matrices),
        optax.trace(decay=momentum),
    )


def matrices(params: Tree) -> Tree:
    """True at every leaf with two or more dimensions."""
    return jax.tree.map(lambda p: p.ndim > 1, params)
