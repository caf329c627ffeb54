"""Adam's direction, written so that a CPU reads and writes every moment once."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from mim_jax.nn.materialize import written_down

Tree = Any


def scale_by_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformationExtraArgs:
    """`optax.scale_by_adam` to the last bit, with its state; where `moved`, which `update` takes by name, is false,
    the state stays as it was and the direction means nothing.

    Why not optax's: XLA for CPUs computes the moments twice, once to keep them and once for the direction, and
    copies the old ones first; the choice between new and old state on top of it made three passes more.
    """

    def update(updates, state, params=None, *, moved=True, **_):
        def blend(decay, order):
            new = lambda g, m: jnp.where(moved, (1 - decay) * (g**order) + decay * m, m)  # noqa: E731
            return new

        mu = jax.tree.map(blend(b1, 1), updates, state.mu)
        nu = jax.tree.map(blend(b2, 2), updates, state.nu)
        count = jnp.where(moved, optax.safe_increment(state.count), state.count)
        mu, nu = written_down((mu, nu))
        first, second = 1 - b1**count, 1 - b2**count
        direction = jax.tree.map(lambda m, v: (m / first) / (jnp.sqrt(v / second) + eps), mu, nu)
        return direction, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformationExtraArgs(optax.scale_by_adam(b1, b2, eps).init, update)
