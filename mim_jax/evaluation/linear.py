"""Protocol `linear`: MAE's linear probe (He et al. 2022, appendix A.1) on frozen features.

Batch normalisation without affine, one linear layer, LARS, warm-up and cosine per step. One departure: the batch
statistics are those of the whole batch, where the authors take them per device.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mim_jax.errors import ConfigError
from mim_jax.evaluation.augmented import epoch_features
from mim_jax.evaluation.encoders import check_feature
from mim_jax.evaluation.protocol import Numbers, Protocol, Task, top
from mim_jax.models.probe import LinearProbe
from mim_jax.training.lars import matrices, scale_by_lars
from mim_jax.training.schedules import warmup_cosine_at_step

Tree = Any


class ProbeState(struct.PyTreeNode):
    """Everything that moves while a probe is trained."""

    step: Int[Array, ""]
    params: Tree
    batch_stats: Tree
    momentum: Tree


@dataclasses.dataclass(frozen=True)
class Linear(Protocol):
    """Settings as in `recipes.linear_probe`; peak learning rate = lr * batch / lr_batch (lr_batch 0: lr itself)."""

    name: ClassVar[str] = "linear"
    epochs: float = 90.0
    warmup_epochs: float = 10.0
    batch_size: int = 16384
    lr: float = 0.1
    lr_batch: int = 256
    momentum: float = 0.9
    weight_decay: float = 0.0
    trust_coefficient: float = 0.001
    feature: str = "cls"
    augment: bool = False
    scale: tuple[float, float] = (0.08, 1.0)

    @classmethod
    def from_config(cls, evaluation: Any) -> Linear:
        values = {field.name: evaluation["linear"][field.name] for field in dataclasses.fields(cls)}
        probe = cls(**(values | {"scale": tuple(values["scale"])}))
        if probe.batch_size < 2:
            raise ConfigError(f"evaluation.linear.batch_size = {probe.batch_size}: batch normalisation needs 2 or more")
        if not 0 <= probe.warmup_epochs < probe.epochs:
            raise ConfigError(
                f"evaluation.linear.warmup_epochs = {probe.warmup_epochs} must be from 0 to below "
                f"evaluation.linear.epochs = {probe.epochs}"
            )
        if not probe.lr > 0:
            raise ConfigError(f"evaluation.linear.lr = {probe.lr} must be above 0")
        check_feature(probe.feature, "evaluation.linear.feature")
        return probe

    def run(self, task: Task) -> Numbers:
        feature, held_out = task.encoder.feature(self.feature), task.held_out
        plan, state, loss = self.fit(task)
        ranked = rank(plan, state, jnp.asarray(held_out.features[feature]))
        metrics = top(np.asarray(ranked), held_out.truth, plan.classes)
        changed = {"batch_size": plan.batch, "peak_lr": plan.peak} if plan.batch < self.batch_size else {}
        return Numbers(metrics, task.counts(), changed, {"train_loss": loss})

    def fit(self, task: Task) -> tuple[Plan, ProbeState, float]:
        """The probe trained on the task's training images: its sizes, its variables, its last epoch's mean loss.

        Raises:
            ConfigError: it diverged.
        """
        feature, classes, train = task.encoder.feature(self.feature), task.classes, task.train
        plan = self.plan(len(train), classes)
        if plan.batch < self.batch_size:
            task.say(
                f"linear probe: batch size {self.batch_size} is more than the {len(train)} training images; "
                f"all {plan.batch} of them make one batch, peak learning rate {plan.peak:g}"
            )
        key = jax.random.key(task.seed)
        state = plan.init(key, train.features[feature].shape[1])
        vectors, labels = jnp.asarray(train.features[feature]), jnp.asarray(train.truth)
        loss = jnp.zeros(())
        for epoch in range(math.ceil(self.epochs)):
            if self.augment:
                found = epoch_features(task, (self.feature,), self.scale, epoch)
                vectors, labels = jnp.asarray(found.features[feature]), jnp.asarray(found.truth)
            state, loss = train_epoch(plan, state, vectors, labels, jax.random.fold_in(key, epoch))
        if not np.isfinite(loss):
            raise ConfigError(f"the linear probe diverged (loss {float(loss)}); lower evaluation.linear.lr = {self.lr}")
        return plan, state, float(loss)

    def plan(self, images: int, classes: int) -> Plan:
        """The settings with the batch that `images` allow, and the learning rate of that batch."""
        batch = min(self.batch_size, images)
        peak = self.lr * batch / self.lr_batch if self.lr_batch else self.lr
        return Plan(self, classes, batch, images // batch, peak)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A linear probe whose sizes are known: hashable, so that it can be compiled in."""

    probe: Linear
    classes: int
    batch: int
    steps_per_epoch: int
    peak: float

    @property
    def model(self) -> LinearProbe:
        return LinearProbe(self.classes)

    @property
    def direction(self) -> optax.GradientTransformation:
        return scale_by_lars(self.probe.momentum, self.probe.trust_coefficient, self.probe.weight_decay, matrices)

    def init(self, key: PRNGKeyArray, width: int) -> ProbeState:
        """A fresh probe for features of this width."""
        variables = self.model.init(key, jnp.zeros((2, width)), train=True)
        params = variables["params"]
        return ProbeState(jnp.zeros((), jnp.int32), params, variables["batch_stats"], self.direction.init(params))


def train_step(
    plan: Plan, state: ProbeState, features: Float[Array, "B D"], labels: Int[Array, " B"]
) -> tuple[ProbeState, Float[Array, ""]]:
    """One LARS step on one batch; returns the loss before it."""

    def loss_of(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, moved = plan.model.apply(variables, features, train=True, mutable=["batch_stats"])
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, moved["batch_stats"]

    (loss, batch_stats), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    direction, momentum = plan.direction.update(gradient, state.momentum, state.params)
    rate = warmup_cosine_at_step(
        state.step,
        steps_per_epoch=plan.steps_per_epoch,
        peak=plan.peak,
        minimum=0.0,
        warmup_epochs=plan.probe.warmup_epochs,
        epochs=plan.probe.epochs,
    )
    params = jax.tree.map(lambda p, d: p - rate * d, state.params, direction)
    return ProbeState(state.step + 1, params, batch_stats, momentum), loss


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_epoch(
    plan: Plan, state: ProbeState, features: Float[Array, "N D"], labels: Int[Array, " N"], key: PRNGKeyArray
) -> tuple[ProbeState, Float[Array, ""]]:
    """All batches of one epoch in a fresh order, one compiled scan; what fills no batch is left out of this epoch.

    Returns the state and the mean loss.
    """
    steps = len(features) // plan.batch
    order = jax.random.permutation(key, len(features))[: steps * plan.batch].reshape(steps, plan.batch)
    state, losses = jax.lax.scan(lambda s, rows: train_step(plan, s, features[rows], labels[rows]), state, order)
    return state, losses.mean()


@functools.partial(jax.jit, static_argnums=0)
def rank(plan: Plan, state: ProbeState, features: Float[Array, "M D"]) -> Int[Array, "M T"]:
    """The first min(5, classes) classes of every image, best first; equal logits: the smaller number."""
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits = plan.model.apply(variables, features, train=False)
    return jax.lax.top_k(jnp.asarray(logits), min(5, plan.classes))[1]
