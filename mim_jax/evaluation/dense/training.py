"""Trains a dense head, and where asked the encoder below it, on random crops: one jitted step on all devices."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from mim_jax import recipes
from mim_jax.errors import CheckpointError, ConfigError
from mim_jax.evaluation.dense.kept import Kept
from mim_jax.evaluation.dense.trunk import Trunk
from mim_jax.methods.base import Variables
from mim_jax.models.maps import upsample
from mim_jax.nn.images import normalize
from mim_jax.training import optimizer
from mim_jax.training.sharding import global_batch, on_every_device

Loss = Callable[[Any, Any, Any, Any], Array]  # (output, auxiliary output or None, map, step) -> loss
CHECK_EVERY = 100  # steps after which a loss that is not finite is noticed


class State(struct.PyTreeNode):
    """Everything that moves: `params` holds `head`, and `encoder` where that is trained."""

    step: Any
    params: Any
    batch_stats: Any
    moments: Any


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a dense head is trained, hashable, so that it can be compiled in.

    mean, std: of the run's pixels. size: (height, width, channels) of a crop. The rate rises linearly for
    `warmup_steps` and falls linearly to `min_lr` (poly with power 1); `layer_decay` is for a trained encoder.
    """

    trunk: Trunk
    head: nn.Module
    loss: Loss
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int, int]
    steps: int
    batch: int
    lr: float
    min_lr: float = 0.0
    warmup_steps: int = 0
    weight_decay: float = 0.0
    layer_decay: float = 1.0
    clip_norm: float = 0.0

    def rate(self, step: Any) -> Any:
        """The learning rate of a step."""
        step = jnp.asarray(step, jnp.float32)
        rate = (self.lr - self.min_lr) * (1 - step / self.steps) + self.min_lr
        if not self.warmup_steps:
            return rate
        return rate * jnp.minimum(1e-6 + (1 - 1e-6) * step / self.warmup_steps, 1.0)

    def optimizer(self, params: Any) -> Any:
        """AdamW (0.9, 0.999); vectors take no weight decay."""
        section = recipes.adamw() | {
            "b2": 0.999,
            "weight_decay": self.weight_decay,
            "layer_decay": self.layer_decay,
            "clip_norm": self.clip_norm,
        }
        return optimizer.build(section, self.trunk.groups(), params)

    def init(self, variables: Variables, key: PRNGKeyArray) -> State:
        """A fresh head; an encoder that is to be trained starts from `variables` (`Trunk.fitted`)."""
        images = jnp.zeros((1, *self.size))
        params: dict[str, Any] = {}
        if self.trunk.trained:  # a copy, because the state is given away to every step
            params["encoder"] = jax.tree.map(jnp.copy, variables.params)

        @jax.jit
        def start(variables, params):
            maps = self.trunk.maps(variables, params.get("encoder"), images)
            found = self.head.init({"params": key, "dropout": key}, maps, train=True)
            return {"head": found["params"]}, found.get("batch_stats", {})

        head, batch_stats = start(variables, params)
        params |= head
        return State(jnp.zeros((), jnp.int32), params, batch_stats, self.optimizer(params).init(params))

    def predict(self, state: State, variables: Variables, images: Shaped[Array, "B H W C"]) -> Float[Array, "B h w K"]:
        """What the head says about crops as they are stored, at the size of its own map."""
        maps = self.trunk.maps(variables, state.params.get("encoder"), normalize(images, self.mean, self.std))
        weights = {"params": state.params["head"], "batch_stats": state.batch_stats}
        return self.head.apply(weights, maps, train=False)[0]


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_step(
    plan: Plan, state: State, variables: Variables, batch: dict[str, Array], key: PRNGKeyArray
) -> tuple[State, Float[Array, ""]]:
    """One step on a batch of crops, `image` (B, H, W, C) and `map` (B, H, W); returns the loss before it."""
    images = normalize(batch["image"], plan.mean, plan.std)
    path_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))

    def loss_of(params):
        maps = plan.trunk.maps(variables, params.get("encoder"), images, path_key)
        weights = {"params": params["head"], "batch_stats": state.batch_stats}
        rngs = {"dropout": dropout_key}
        (output, beside), moved = plan.head.apply(weights, maps, train=True, mutable=["batch_stats"], rngs=rngs)
        return plan.loss(output, beside, batch["map"], state.step), moved.get("batch_stats", {})

    (loss, batch_stats), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    change, moments = plan.optimizer(state.params).update(
        gradient, state.moments, state.params, lr=plan.rate(state.step)
    )
    params = jax.tree.map(jnp.add, state.params, change)
    return State(state.step + 1, params, batch_stats, moments), loss


def train(
    plan: Plan,
    variables: Variables,
    crops: Callable[[int], Iterator[dict[str, np.ndarray]]],
    mesh: Mesh,
    seed: int,
    lr_key: str,
    kept: Kept | None = None,
) -> tuple[State, float]:
    """The trained state, whole on every device, and the mean loss of the last tenth of the steps.

    crops: this process's share of every batch from a step on. kept: where checkpoints lie; what it holds goes on.

    Raises:
        ConfigError: the loss is no number; names the key of the learning rate. CheckpointError: as `Kept.restored`.
    """
    key = jax.random.key(seed)
    state = on_every_device(plan.init(variables, key), mesh)
    state, losses = kept.restored(state) if kept else (state, [])
    begun, tail = int(state.step), plan.steps - max(plan.steps // 10, 1)
    for done, batch in enumerate(crops(begun), begun + 1):
        state, loss = train_step(plan, state, variables, global_batch(batch, mesh), key)
        if done > tail:
            losses.append(loss)
        saving = kept is not None and kept.due(done)
        look = saving or done % CHECK_EVERY == 0 or done == plan.steps
        if look and not np.isfinite(float(loss)):
            check_weights(variables)
            raise ConfigError(f"the loss is {float(loss)} at step {done}; lower {lr_key} = {plan.lr}")
        if kept is not None and saving:
            kept.save(done, state, losses)
    return state, float(np.mean([float(loss) for loss in losses]))


def check_weights(variables: Variables) -> None:
    """Raises CheckpointError where the encoder's own weights are no numbers."""
    leaves = jax.tree.leaves((variables.params, variables.extra))
    leaves = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    bad = sum(not bool(jnp.isfinite(leaf).all()) for leaf in leaves)
    if bad:
        raise CheckpointError(
            f"{bad} of {len(leaves)} arrays of the encoder hold NaN or infinite values; "
            "evaluate an earlier checkpoint with step=N"
        )


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """Mean over all pixels, those without a label as 0 (mmsegmentation's), of logits made as large as the map.

    auxiliary: weight of the auxiliary head's loss.
    """

    auxiliary: float = 0.4

    def __call__(
        self,
        logits: Float[Array, "B h w K"],
        beside: Float[Array, "B i j K"] | None,
        labels: Shaped[Array, "B H W"],
        step: Any,
    ) -> Float[Array, ""]:
        del step
        loss = pixel_cross_entropy(logits, labels)
        return loss if beside is None else loss + self.auxiliary * pixel_cross_entropy(beside, labels)


def pixel_cross_entropy(logits: Float[Array, "B h w K"], labels: Shaped[Array, "B H W"]) -> Float[Array, ""]:
    logs = jax.nn.log_softmax(upsample(logits, labels.shape[1:3]))
    picked = jnp.take_along_axis(logs, jnp.maximum(labels, 0)[..., None], axis=-1)[..., 0]
    return -jnp.where(labels >= 0, picked, 0).mean()


@dataclasses.dataclass(frozen=True)
class LogDepth:
    """Scale-invariant error of log depths (Eigen et al. 2014; AdaBins).

    sqrt(var(d) + 0.15 mean(d)^2) of d = log(prediction) - log(truth) over the pixels with a measurement; in the first
    `warmup` steps the mean alone.
    """

    weight: float = 10.0
    warmup: int = 100
    epsilon: float = 1e-3

    def __call__(
        self, depth: Float[Array, "B h w 1"], beside: None, truth: Float[Array, "B H W"], step: Any
    ) -> Float[Array, ""]:
        del beside
        predicted = upsample(depth, truth.shape[1:3])[..., 0]
        valid = truth > 0
        count = jnp.maximum(valid.sum(), 1)
        error = jnp.where(valid, jnp.log(predicted + self.epsilon) - jnp.log(truth + self.epsilon), 0)
        mean = error.sum() / count
        variance = jnp.where(valid, jnp.square(error - mean), 0).sum() / jnp.maximum(count - 1, 1)
        square = 0.15 * mean**2 + jnp.where(step < self.warmup, 0.0, variance)
        return self.weight * jnp.sqrt(jnp.maximum(square, 1e-12))
