"""The training step of a tiny method on a mesh, of one process or several."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
from contract_case import make_batch

from mim_jax import recipes
from mim_jax.methods.base import Progress
from mim_jax.nn.target import compiled_for
from mim_jax.training import sharding
from mim_jax.training.optimizer import build
from mim_jax.training.sharding import global_batch, make_mesh, to_mesh, tree_shardings
from mim_jax.training.state import init_state
from mim_jax.training.step import StepSettings, train_step
from mim_jax.training.views import Views

SETTINGS = StepSettings(100, 10, lambda step: 1e-3 * (step + 1), Views((), (0.0,), (1.0,)), ema=0.9)
BATCH = 8


class Meshed(NamedTuple):
    """First state, what is frozen, batch, and the compiled step(state, batch) and draw(state, batch)."""

    state: Any
    frozen: Any
    batch: Any
    step: Callable
    draw: Callable


@lru_cache
def compiled(method, **sizes):
    """The step on a mesh; on one device by default."""
    mesh = make_mesh({"data": -1, "fsdp": 1, "tensor": 1, **sizes}, None if sizes else jax.devices()[:1])
    rows = BATCH // jax.process_count() if sizes else BATCH
    own = slice(jax.process_index() * rows, (jax.process_index() + 1) * rows) if sizes else slice(None)
    batch = global_batch({k: np.asarray(v)[own] for k, v in make_batch(method, BATCH).items()}, mesh)
    params = jax.eval_shape(method.init, jax.random.key(0), batch).params
    optimizer = build({**recipes.adamw(), "clip_norm": 1.0}, method.param_groups(), params)
    start = partial(init_state, method, optimizer, ema=SETTINGS.ema > 0)
    shardings = tree_shardings(jax.eval_shape(start, jax.random.key(0), batch), mesh)
    where = sharding.replicated(mesh)
    first, key = (to_mesh(jax.random.key(seed), where) for seed in (0, 5))
    if sizes and jax.process_count() == 1:  # one start, compiled once, for all meshes
        state, frozen = jax.device_put(first_state(method), shardings)
    else:
        state, frozen = jax.jit(start, out_shardings=shardings)(first, batch)

    @partial(jax.jit, out_shardings=(shardings[0], where))
    def step(state, frozen, batch, key):
        with compiled_for(mesh, sharding.BATCH_AXES):
            return train_step(state, frozen, batch, key, method=method, optimizer=optimizer, settings=SETTINGS)

    @partial(jax.jit, out_shardings=where)
    def draw(state, frozen, batch, key):
        progress = Progress.at(state.step, SETTINGS.total_steps, SETTINGS.steps_per_epoch)
        step_key = jax.random.fold_in(key, state.step)
        return method.draw(state.params, state.extra, frozen, batch, step_key, progress)

    # Arrays that are not all here cannot be constants of a program.
    return Meshed(state, frozen, batch, lambda s, b: step(s, frozen, b, key), lambda s, b: draw(s, frozen, b, key))


def first_state(method):
    """Of one device."""
    one = compiled(method)
    return one.state, one.frozen
