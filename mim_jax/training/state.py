"""Everything a run remembers between two steps."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import PRNGKeyArray

from mim_jax.methods.base import Batch, Method, Variables
from mim_jax.nn.ema import ema_start

Tree = Any


class TrainState(struct.PyTreeNode):
    """step (int32): batches done. ema: moving average of params, {} where the run keeps none.

    skipped (int32): batches left out.
    hold (bool): a loss or gradient was not finite at batch `step`; nothing moves until the loop has seen it.
    """

    step: Any
    params: Tree
    opt_state: Tree
    extra: Tree
    ema: Tree
    skipped: Any
    hold: Any

    def weights(self) -> Tree:
        """The parameters to evaluate: the moving average where there is one."""
        return self.ema or self.params


def run_key(seed: int, purpose: str) -> PRNGKeyArray:
    """The key of a run for one purpose; purposes never share random numbers."""
    return jax.random.fold_in(jax.random.key(seed), sum(ord(c) * 257**i for i, c in enumerate(purpose)) % 2**31)


@lru_cache(maxsize=8)
def initialiser(method: Method) -> Any:
    """`method.init`, which is traced once for all that ask for its shapes or its values."""
    return jax.jit(method.init)


def init_state(
    method: Method, optimizer: optax.GradientTransformation, key: PRNGKeyArray, batch: Batch, ema: bool
) -> tuple[TrainState, Tree]:
    """A fresh state and the frozen variables. Pure, so it can be traced for shapes and initialised sharded."""
    variables: Variables = initialiser(method)(key, batch)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables.params,
        opt_state=optimizer.init(variables.params),
        extra=variables.extra,
        ema=ema_start(variables.params) if ema else {},
        skipped=jnp.zeros((), jnp.int32),
        hold=jnp.zeros((), bool),
    )
    return state, variables.frozen
