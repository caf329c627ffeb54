"""Several steps of training with given random draws, by the loop's own step."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mim_jax.interop.case import Case
from mim_jax.interop.compare import Result
from mim_jax.interop.kinds.gradients import norms
from mim_jax.interop.kinds.pretrain import trained
from mim_jax.interop.name_map import spread, to_theirs
from mim_jax.interop.system import Subject
from mim_jax.methods.base import Batch, Method, Variables
from mim_jax.recipes import adamw
from mim_jax.training.groups import group_table
from mim_jax.training.optimizer import build
from mim_jax.training.schedules import warmup_cosine_at_step
from mim_jax.training.state import TrainState, init_state
from mim_jax.training.step import StepSettings, train_step
from mim_jax.training.views import Views

Tree = Any
Scalars = dict[str, Any]


def run(case: Case, subject: Subject) -> Result:
    """Losses and learning rates of every step; size of every parameter, and of its change, after the last."""
    settings = optimizer_settings(case)
    batches = [step_batch(case, subject, i) for i in range(int(case.config["steps"]))]
    start = subject.variables(case, batches[0])
    state, scalars = train(case, subject.method, settings, start, batches)

    layout, groups = subject.layout, group_table(subject.method.param_groups(), start.params)
    before, after = (Variables(params=trained(subject, tree)) for tree in (start.params, state.params))
    change = jax.tree.map(lambda a, b: np.asarray(a, np.float64) - np.asarray(b, np.float64), after, before)
    decayed = {f"params/{path}": float(group.decay and settings["weight_decay"] > 0) for path, group in groups.items()}
    columns: dict[str, Mapping[str, float]] = {
        "param_norms_after": norms(to_theirs(layout.names, after, layout.sizes)),
        "change_norms": norms(to_theirs(layout.names, change, layout.sizes)),
        "decayed": spread(layout.names, before, decayed, layout.sizes),
    }
    arrays = {"losses": [s["loss"] for s in scalars], "lrs": [s["lr"] for s in scalars]}
    return Result(arrays=arrays, named={"param_names": columns}, rows=layout.table_rows(case))


def train(
    case: Case, method: Method, settings: Scalars, start: Variables, batches: list[Batch]
) -> tuple[TrainState, list[Scalars]]:
    """The state after one step per batch, and what each step reports."""
    method = given(method, start)
    optimizer = build(settings, method.param_groups(), start.params)
    state, _ = init_state(method, optimizer, jax.random.key(0), batches[0], ema=False)
    step = jax.jit(functools.partial(train_step, method=method, optimizer=optimizer, settings=step_settings(case)))
    scalars = []
    for batch in batches:
        state, values = step(state, start.frozen, batch, jax.random.key(0))
        scalars.append(values)
    return state, scalars


def optimizer_settings(case: Case) -> Scalars:
    """The `optimizer` section of a config, from a case; what the case does not say is the recipe's default."""
    c, settings = case.config, adamw()
    settings.update(lr=c["lr"], lr_batch=0, min_lr=c["min_lr"], warmup_epochs=c["warmup_epochs"])
    settings["weight_decay"] = c["weight_decay"]
    settings["b1"], settings["b2"] = c.get("betas", (settings["b1"], settings["b2"]))
    for theirs, ours in (("eps", "eps"), ("clip_grad", "clip_norm"), ("layer_decay", "layer_decay")):
        value = c.get(theirs)
        settings[ours] = settings[ours] if value is None else value
    return settings


def step_settings(case: Case) -> StepSettings:
    """What the step needs; reference images are already normalised."""
    c = case.config
    learning_rate = functools.partial(
        warmup_cosine_at_step,
        steps_per_epoch=int(c["steps_per_epoch"]),
        peak=c["lr"],
        minimum=c["min_lr"],
        warmup_epochs=c["warmup_epochs"],
        epochs=c["epochs"],
    )
    return StepSettings(
        total_steps=int(c["epochs"] * c["steps_per_epoch"]),
        steps_per_epoch=int(c["steps_per_epoch"]),
        learning_rate=learning_rate,
        views=Views((), (0.0,), (1.0,)),
    )


def step_batch(case: Case, subject: Subject, step: int) -> Batch:
    """The batch of one step with its random draws in it; every input leads with the steps."""
    batch, draws = subject.inputs({name: array[step] for name, array in case.inputs.items()})
    return {**batch, "draws": jax.tree.map(jnp.asarray, draws)}


def given(method: Method, start: Variables) -> Method:
    """The same method, but its start is given and its random choices come with the batch."""

    class Given(type(method)):  # type: ignore[misc]
        def init(self, key, batch):
            return start

        def draw(self, params, extra, frozen, batch, key, progress):
            return batch["draws"]

    return Given(**{field.name: getattr(method, field.name) for field in dataclasses.fields(method)})
