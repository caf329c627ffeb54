"""Several steps of a student and its moving-average teacher (DINO, iBOT), by the loop's own step and optimizer."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mim_jax.errors import VerifyError
from mim_jax.interop.case import Case
from mim_jax.interop.compare import Result
from mim_jax.interop.kinds.gradients import norms
from mim_jax.interop.kinds.pretrain import trained
from mim_jax.interop.kinds.train import given, step_batch
from mim_jax.interop.name_map import to_theirs
from mim_jax.interop.system import Subject
from mim_jax.methods.base import Progress, Variables
from mim_jax.nn.ema import cosine_ramp
from mim_jax.recipes import adamw
from mim_jax.training.optimizer import build
from mim_jax.training.schedules import learning_rate, weight_decay
from mim_jax.training.state import init_state
from mim_jax.training.step import StepSettings, loss_and_grads, train_step
from mim_jax.training.views import Views

Tree = Any
SCALARS = {"lrs": "lr", "wds": "weight_decay", "losses": "loss", "losses_cls": "cls", "losses_patch": "patch"}


def run(case: Case, subject: Subject) -> Result:
    """Losses, schedules and gradients of every step; how far student and teacher have moved after the last.

    The weights' names begin with `student.`, `teacher.` and `loss.` (what else the method moves); `student_names` and
    `teacher_names` are without that.
    """
    settings = optimizer_settings(case)
    steps = step_settings(case, settings)
    batches = [step_batch(case, subject, i) for i in range(int(case.config["steps"]))]
    start = subject.variables(case, batches[0])
    method = given(subject.method, start)
    optimizer = build(settings, method.param_groups(), start.params)
    state, frozen = init_state(method, optimizer, jax.random.key(0), batches[0], ema=False)
    step = jax.jit(functools.partial(train_step, method=method, optimizer=optimizer, settings=steps))

    @jax.jit
    def gradients(state, batch):
        progress = Progress.at(state.step, steps.total_steps, steps.steps_per_epoch)
        return loss_and_grads(method, state, frozen, batch, batch["draws"], progress, 1)[2]

    scalars, unclipped = [], []
    for batch in batches:
        before_clip = part(theirs(subject, gradients(state, batch)), "student")
        unclipped.append([norms(before_clip)[name] for name in case.outputs["student_names"].tolist()])
        state, values = step(state, frozen, batch, jax.random.key(0))
        scalars.append(values)

    before, after = theirs(subject, start.params, start.extra), theirs(subject, state.params, state.extra)
    change = norms({n: np.asarray(after[n], np.float64) - np.asarray(b, np.float64) for n, b in before.items()})
    arrays: dict[str, Any] = {ours: np.asarray([s[scalar] for s in scalars]) for ours, scalar in SCALARS.items()}
    ends: tuple[float, float] = tuple(case.config["momentum"])
    shares = jnp.arange(len(batches)) / steps.total_steps
    arrays["momenta"] = jax.vmap(functools.partial(cosine_ramp, *ends))(shares)
    arrays["grad_norms_before_clip"] = np.asarray(unclipped)
    arrays |= {f"{name}_after": value for name, value in part(after, "loss").items()}
    named: dict[str, dict[str, Mapping[str, float]]] = {
        f"{side}_names": {f"{side}_change_norms": part(change, side)} for side in ("student", "teacher")
    }
    return Result(arrays=arrays, named=named)


def theirs(subject: Subject, params: Tree, extra: Tree | None = None) -> dict[str, Any]:
    """The parameters that train, and the extra state, under the names of the original."""
    variables = Variables(params=trained(subject, params), extra=extra or {})
    return to_theirs(subject.layout.names, variables, subject.layout.sizes)


def part(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    """What stands under a prefix, without it."""
    return {name.removeprefix(f"{prefix}."): v for name, v in values.items() if name.startswith(f"{prefix}.")}


def optimizer_settings(case: Case) -> dict[str, Any]:
    """The `optimizer` section of a config: PyTorch's AdamW with rate and decay on cosines, clipped tensor by tensor."""
    c = case.config
    if c["momentum"][1] != 1:
        raise VerifyError(f"{case.folder}: a teacher's momentum that ends at {c['momentum'][1]}, not at 1")
    settings = adamw() | dict(b1=0.9, b2=0.999, eps=1e-8, clip="per_tensor", lr_batch=0, warmup_inclusive=True)
    settings["lr"], settings["min_lr"] = c["lr"]
    settings["weight_decay"], settings["weight_decay_end"] = c["wd"]
    settings["b1"], settings["b2"] = c.get("betas", (0.9, 0.999))
    for key, ours in (
        ("warmup_epochs", "warmup_epochs"),
        ("clip_grad", "clip_norm"),
        ("freeze_last_layer", "freeze_epochs"),
    ):
        settings[ours] = float(c.get(key) or 0.0)
    return settings


def step_settings(case: Case, settings: dict[str, Any]) -> StepSettings:
    """What the step needs; reference images are already normalised."""
    epochs, per_epoch = case.config["epochs"], int(case.config["steps_per_epoch"])
    length: dict[str, Any] = {"steps_per_epoch": per_epoch, "epochs": epochs}
    return StepSettings(
        total_steps=int(epochs * per_epoch),
        steps_per_epoch=per_epoch,
        learning_rate=learning_rate(settings, batch_size=1, **length),
        views=Views((), (0.0,), (1.0,)),
        weight_decay=weight_decay(settings, **length),
        freeze_steps=math.ceil(settings["freeze_epochs"] * per_epoch) if settings["freeze_epochs"] > 0 else None,
    )
