"""Several seeds of one training in one program: images on the device, seeds vectorised, an epoch a call.

The step is the ordinary one (`mim_jax.training.step`), once for all seeds: what `mim-jax train` computes for a batch is
what every seed computes here for its batch, up to the order of sums (tests/test_tools_budget.py). What differs is where
batches come from: order, crops and colours are drawn on the device by JAX's generator.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from budget.views import batch as make_batch
from budget.views import refuse
from mim_jax.data.views import View
from mim_jax.methods.base import Method
from mim_jax.nn.target import compiled_for
from mim_jax.training.program import Program, build, step_settings
from mim_jax.training.resolve import Plan, plan
from mim_jax.training.sharding import BATCH_AXES, make_mesh
from mim_jax.training.state import TrainState, run_key
from mim_jax.training.step import train_step

Tree = Any


@dataclass(frozen=True)
class Seeds:
    """Everything a training of several seeds holds beside its state."""

    config: ConfigDict
    method: Method
    seeds: tuple[int, ...]
    views: tuple[View, ...]
    mesh: Mesh
    plan: Plan
    program: Program
    images: jax.Array  # (N, H, W, C) uint8

    @property
    def keys(self) -> jax.Array:
        """The run's key for training of every seed, as an ordinary run of that seed has it."""
        return jnp.stack([run_key(seed, "train") for seed in self.seeds])


def prepare(config: ConfigDict, method: Method, images: np.ndarray, seeds: tuple[int, ...]) -> Seeds:
    """Puts the images on the device and builds the program; ends with a sentence where a view cannot be made there."""
    views = tuple(
        View.from_config(name, config.data.views, config.data.eval_resize, config.data.mean, config.data.std)
        for name in config.data.views
    )
    refuse(views)
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    run = plan(config, len(images), mesh)
    here = jax.device_put(images, mesh.devices.flat[0])
    size = config.training.batch_size
    shapes = jax.eval_shape(partial(make_batch, views), jax.random.key(0), here[:size])
    program = build(config, method, step_settings(config, run), mesh, shapes)
    return Seeds(config, method, seeds, views, mesh, run, program, here)


def begin(made: Seeds, teachers: Callable[[Tree], Tree]) -> tuple[TrainState, Tree]:
    """(states, frozen): a fresh state of every seed, stacked; what never changes is shared by the seeds.

    teachers: reads entries of `frozen` from elsewhere, as for `mim-jax train`.
    """
    states, frozen = [], None
    make = jax.jit(partial(make_batch, made.views))
    for seed in made.seeds:
        first = make(run_key(seed, "first batch"), made.images[: made.config.training.batch_size])
        state, frozen = made.program.init(run_key(seed, "init"), first)
        states.append(state)
    read = teachers(made.program.frozen)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states), {**frozen, **read} if read else frozen


def step_of(made: Seeds) -> Callable[..., tuple[TrainState, dict[str, Any]]]:
    """(states, frozen, batches, keys) -> (states, scalars), every leaf but those of `frozen` with an axis of seeds."""
    one = partial(
        train_step,
        method=made.method,
        optimizer=made.program.optimizer,
        settings=step_settings(made.config, made.plan),
    )
    return jax.vmap(one, in_axes=(0, None, 0, 0))


def epoch_of(made: Seeds) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """Compiles (states, frozen, images, keys, data keys, steps to take) -> (states, scalars by step and seed).

    Every seed walks through an order of its own, in whole batches; nothing waits on the host. The number of steps is
    that of an epoch or, in the last call, fewer: each of the two lengths is compiled once.
    """
    size, count = made.config.training.batch_size, len(made.images)
    step = step_of(made)

    def one_batch(images: jax.Array, key: jax.Array, order: jax.Array, number: jax.Array) -> dict[str, jax.Array]:
        chosen = jax.lax.dynamic_slice_in_dim(order, number * size, size)
        return make_batch(made.views, jax.random.fold_in(key, number), images[chosen])

    def epoch(states: TrainState, frozen: Tree, images: jax.Array, keys: jax.Array, data: jax.Array, steps: int) -> Any:
        orders = jax.vmap(lambda key: jax.random.permutation(jax.random.fold_in(key, count), count))(data)

        def body(states: TrainState, number: jax.Array) -> Any:
            batches = jax.vmap(one_batch, in_axes=(None, 0, 0, None))(images, data, orders, number)
            return step(states, frozen, batches, keys)

        with compiled_for(made.mesh, BATCH_AXES):
            return jax.lax.scan(body, states, jnp.arange(steps))

    return jax.jit(epoch, static_argnums=5, donate_argnums=0)


def train(made: Seeds, states: TrainState, frozen: Tree) -> Iterator[tuple[TrainState, dict[str, np.ndarray], float]]:
    """After every epoch: (states, scalars (steps, seeds) by name, seconds); the first includes compiling.

    Ends with a sentence at a loss that is not finite: then no number of the run is worth keeping.
    """
    run_epoch, per_epoch, total = epoch_of(made), made.plan.steps_per_epoch, made.plan.total_steps
    for epoch in range(math.ceil(total / per_epoch)):
        began = time.perf_counter()
        data = jnp.stack([jax.random.fold_in(run_key(seed, "data"), epoch) for seed in made.seeds])
        steps = min(per_epoch, total - epoch * per_epoch)
        states, scalars = run_epoch(states, frozen, made.images, made.keys, data, steps)
        found = {name: np.asarray(value) for name, value in scalars.items()}
        if found["hold"][-1].any():
            bad = [made.seeds[i] for i in np.flatnonzero(found["hold"][-1])]
            raise SystemExit(
                f"{made.method.name}: a loss or gradient of seed {bad} was not finite in epoch {epoch + 1}"
            )
        yield states, found, time.perf_counter() - began
