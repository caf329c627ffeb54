"""The training step of a config as a program: its shapes, where every array lies, and what is compiled.

The loop runs it; `training.compile_ahead` compiles it for devices that are not here. Nothing in it needs data or
devices: a batch may be shapes, and the mesh may be that of a topology.
"""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mim_jax.methods.base import Batch, Method
from mim_jax.nn.materialize import CPU_OPTIONS
from mim_jax.nn.target import compiled_for
from mim_jax.training.optimizer import build as build_optimizer
from mim_jax.training.resolve import Plan
from mim_jax.training.schedules import learning_rate, weight_decay
from mim_jax.training.sharding import BATCH_AXES, replicated, tree_shardings
from mim_jax.training.state import TrainState, init_state, initialiser, run_key
from mim_jax.training.step import StepSettings, train_step
from mim_jax.training.views import Views

Tree = Any


@dataclasses.dataclass(frozen=True)
class Program:
    """What a run compiles.

    params: shapes of what is trained. state, frozen: shapes with their shardings. shardings: of (state, frozen).
    init: jitted, (key, batch) -> (state, frozen), on the mesh. step: jitted, (state, frozen, batch, key) -> (state,
    scalars). on_cpu: whether the mesh is of CPUs.
    """

    params: Tree
    state: TrainState
    frozen: Tree
    shardings: tuple[Tree, Tree]
    optimizer: optax.GradientTransformationExtraArgs
    init: Any
    step: Any
    on_cpu: bool


def build(config: ConfigDict, method: Method, settings: StepSettings, mesh: Mesh, batch: Batch) -> Program:
    """The program of a run. batch: arrays or shapes of a global batch, as the data gives it."""
    key, prepare = run_key(config.seed, "init"), settings.views.prepare
    views = jax.eval_shape(prepare, batch)
    params = jax.eval_shape(initialiser(method), key, views).params
    optimizer = build_optimizer(config.optimizer, method.param_groups(), params)
    start = partial(init_state, method, optimizer, ema=config.optimizer.ema > 0)
    shapes = jax.eval_shape(start, key, views)
    shardings = tree_shardings(shapes, mesh, config.sharding)
    state, frozen = jax.tree.map(
        lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), shapes, shardings
    )
    init = jax.jit(lambda k, b: start(k, prepare(b)), out_shardings=shardings)
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    step = jax.jit(
        partial(_targeted_step, mesh, method=method, optimizer=optimizer, settings=settings),
        donate_argnums=0,
        out_shardings=(shardings[0], replicated(mesh)),
        compiler_options=CPU_OPTIONS if on_cpu else None,
    )
    return Program(params, state, frozen, shardings, optimizer, init, step, on_cpu)


def _targeted_step(mesh: Mesh, *args: Any, **parts: Any) -> Any:
    """The step, traced for the mesh's devices."""
    with compiled_for(mesh, BATCH_AXES):
        return train_step(*args, **parts)


def step_settings(config: ConfigDict, run: Plan) -> StepSettings:
    """The compiled step's view of the config."""
    length = {"steps_per_epoch": run.steps_per_epoch, "epochs": config.training.epochs}
    freeze = config.optimizer.freeze_epochs
    return StepSettings(
        run.total_steps + run.shift,
        run.steps_per_epoch,
        learning_rate(config.optimizer, batch_size=config.training.batch_size, **length),
        Views.from_config(config.data),
        config.training.accumulate,
        config.optimizer.ema,
        weight_decay(config.optimizer, **length),
        math.ceil(freeze * run.steps_per_epoch) if freeze > 0 else None,
        run.shift,
    )
