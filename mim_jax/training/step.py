"""One training step as a pure function."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from mim_jax.methods.base import Batch, Method, Output, Progress, Variables
from mim_jax.nn.ema import ema_update
from mim_jax.training.state import TrainState
from mim_jax.training.views import Views

Tree = Any
Scalars = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """What the step needs to know of the config, and nothing more.

    weight_decay: None where it does not change. freeze_steps: steps in which some parameters stand still, None where
    the config names none. Both are given exactly where the optimizer was built to take them.
    shift: all schedules are read at step + shift, of a run whose batch size has changed (`training.course`).
    """

    total_steps: int
    steps_per_epoch: int
    learning_rate: Callable[[Any], Any]  # step -> learning rate
    views: Views
    accumulate: int = 1
    ema: float = 0.0
    weight_decay: Callable[[Any], Any] | None = None  # step -> weight decay
    freeze_steps: int | None = None
    shift: int = 0

    def at(self, step: Any) -> Scalars:
        """What the optimizer takes at a step."""
        values = {"lr": self.learning_rate(step)}
        if self.weight_decay is not None:
            values["weight_decay"] = self.weight_decay(step)
        if self.freeze_steps is not None:
            values["held"] = step < self.freeze_steps
        return values


def train_step(
    state: TrainState,
    frozen: Tree,
    batch: Batch,
    key: PRNGKeyArray,
    *,
    method: Method,
    optimizer: optax.GradientTransformationExtraArgs,
    settings: StepSettings,
) -> tuple[TrainState, Scalars]:
    """Draws, differentiates, updates, lets the method move its extra state.

    key: the run's key for training; the step's own key is folded from it, so a step can be replayed alone.
    A loss or gradient that is not finite changes nothing but `hold`, which stops all later steps until the loop has
    looked at it. So does a value that the step itself has spoiled (`spoiled`: a parameter, an average, a centre), but
    then the state is lost: to see it before anything moves would cost another pass over every array.
    """
    at = state.step + settings.shift if settings.shift else state.step
    progress = Progress.at(at, settings.total_steps, settings.steps_per_epoch)
    batch = settings.views.prepare(batch)
    draws = method.draw(state.params, state.extra, frozen, batch, jax.random.fold_in(key, state.step), progress)
    loss, output, grads = loss_and_grads(method, state, frozen, batch, draws, progress, settings.accumulate)

    grad_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    moved = finite & ~state.hold

    scheduled = settings.at(at)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params, moved=moved, **scheduled)
    params = optax.apply_updates(state.params, updates)
    extra = method.update(state.extra, params, output, progress)
    ema = ema_update(state.ema, params, settings.ema) if settings.ema else state.ema

    parts = dict(step=state.step + 1, params=params, extra=extra, ema=ema)
    kept = {name: jax.tree.map(partial(jnp.where, moved), part, getattr(state, name)) for name, part in parts.items()}
    spoiled = moved & ~all_finite(params, extra, ema)
    new = state.replace(**kept, opt_state=opt_state, hold=state.hold | ~finite | spoiled)
    scheduled.pop("held", None)
    scalars = {"loss": loss, **scheduled, "grad_norm": grad_norm, "step": state.step}
    scalars |= {"hold": new.hold, "spoiled": spoiled}
    return new, {**scalars, **output.terms, **output.metrics}


def all_finite(*trees: Tree) -> Any:
    """Whether every floating-point value is finite."""
    leaves = [leaf for leaf in jax.tree.leaves(trees) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()


def loss_and_grads(
    method: Method,
    state: TrainState | Variables,
    frozen: Tree,
    batch: Batch,
    draws: Tree,
    progress: Progress,
    accumulate: int,
) -> tuple[Float[Array, ""], Output, Tree]:
    """Loss, report and gradients of the whole batch, in `accumulate` micro-batches.

    Micro-batches are averaged by `output.weight`, so the result is that of the whole batch, also where the number of
    hidden patches differs between them.
    """

    def loss_of(params, batch, draws):
        loss, output = method.forward(params, state.extra, frozen, batch, draws, progress)
        return loss, output.replace(trace={}, weight=jnp.asarray(output.weight, jnp.float32))

    grad_of = jax.value_and_grad(loss_of, has_aux=True)
    if accumulate == 1:
        (loss, output), grads = grad_of(state.params, batch, draws)
        return loss, output, grads

    def split(leaf):
        # Every device keeps its own rows: micro-batch a takes rows a, a + A, a + 2A, ... of the batch.
        return jnp.moveaxis(leaf.reshape(-1, accumulate, *leaf.shape[1:]), 1, 0)

    def weighted(micro):
        (loss, output), grads = grad_of(state.params, *micro)
        report = (loss, output.replace(weight=jnp.ones(())), grads)
        return jax.tree.map(lambda leaf: leaf * output.weight, (report, jnp.ones(())))

    micros = jax.tree.map(split, (batch, draws))
    shapes = jax.eval_shape(weighted, jax.tree.map(lambda leaf: leaf[0], micros))
    start = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    (report, weight), _ = jax.lax.scan(
        lambda total, m: (jax.tree.map(jnp.add, total, weighted(m)), None), start, micros
    )
    loss, output, grads = jax.tree.map(lambda leaf: leaf / weight, report)
    return loss, output.replace(weight=weight), grads
