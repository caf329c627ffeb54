"""Many linear classifiers trained at once in one program: every feature with every learning rate.

SGD with momentum on softmax cross-entropy, a cosine over the epochs without warm-up (DINO, Caron et al. 2021, and
iBOT, Zhou et al. 2022: their linear evaluations), optionally behind batch normalisation without affine (MAE).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Float, Int, Int64, PRNGKeyArray

from mim_jax.data.randomness import one_of_each

EPSILON, RUNNING = 1e-6, 0.1  # of the batch norm
CHUNK = 4096  # images judged at once
CHOICE = 10  # one training image of so many chooses the rate


@dataclasses.dataclass(frozen=True)
class Recipe:
    """rates: learning rates in force, all trained side by side. epochs, batch: of the training images."""

    rates: tuple[float, ...]
    epochs: int
    batch: int
    momentum: float = 0.9
    weight_decay: float = 0.0
    normalize: bool = False


def recipe_of(settings: Any, images: int, normalize: bool = False) -> Recipe:
    """The recipe that a protocol's settings make for so many training images.

    settings: `lr`, `lr_batch`, `epochs`, `batch_size`, `momentum`, `weight_decay`; each rate in force is
    lr * batch / lr_batch (lr_batch 0: lr itself), the batch no larger than there are images.
    """
    batch = min(settings.batch_size, images)
    scale = batch / settings.lr_batch if settings.lr_batch else 1.0
    rates = tuple(rate * scale for rate in settings.lr)
    return Recipe(rates, settings.epochs, batch, settings.momentum, settings.weight_decay, normalize)


def learn_and_choose(images: int) -> tuple[Int64[np.ndarray, " L"], Int64[np.ndarray, " C"]]:
    """Numbers of the training images that heads learn from, and of the tenth by which a rate is chosen; always the
    same."""
    choose = one_of_each(images, CHOICE, "chooses the learning rate")
    return np.setdiff1d(np.arange(images), choose, assume_unique=True), choose


class Heads(struct.PyTreeNode):
    """weight: (F, R, D, K); bias: (F, R, K); mean, var: (F, D), running statistics. F features, R rates."""

    weight: Any
    bias: Any
    mean: Any
    var: Any


class Training(struct.PyTreeNode):
    """Heads between two epochs; momentum: of their weights and of their biases."""

    heads: Heads
    momentum: Any


def train(
    recipe: Recipe, features: Float[np.ndarray, "F N D"], labels: Int[np.ndarray, " N"], classes: int, key: PRNGKeyArray
) -> Heads:
    """One head per feature and rate; all see the same batches in the same order, the same features in every epoch."""
    state = begin(recipe, (features.shape[0], features.shape[2]), classes, key)
    vectors, truth = jnp.asarray(features), jnp.asarray(labels)
    for epoch in range(recipe.epochs):
        state = train_epoch(recipe, state, vectors, truth, epoch, key)
    return state.heads


def begin(recipe: Recipe, sizes: tuple[int, int], classes: int, key: PRNGKeyArray) -> Training:
    """Heads before the first epoch: weights N(0, 0.01), the same for every rate, biases 0.

    sizes: how many features, and how wide each is.
    """
    count, width = sizes
    start = 0.01 * jax.random.normal(key, (count, 1, width, classes))
    weight = jnp.broadcast_to(start, (count, len(recipe.rates), width, classes))
    heads = Heads(weight, jnp.zeros((*weight.shape[:2], classes)), jnp.zeros((count, width)), jnp.ones((count, width)))
    return Training(heads, (jnp.zeros_like(heads.weight), jnp.zeros_like(heads.bias)))


def train_epoch(
    recipe: Recipe,
    state: Training,
    features: Float[Array, "F N D"],
    labels: Int[Array, " N"],
    epoch: int,
    key: PRNGKeyArray,
) -> Training:
    """The heads after one more epoch, whose rate is constant; `state` is given away."""
    decay = 0.5 * (1 + math.cos(math.pi * epoch / recipe.epochs))
    shuffle = jax.random.fold_in(key, epoch)
    return Training(*_epoch(recipe, state.heads, state.momentum, features, labels, shuffle, decay))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=(1, 2))
def _epoch(recipe, heads, momentum, features, labels, key, decay):
    """All batches in a fresh order; what fills no batch is left out of this epoch."""
    steps = features.shape[1] // recipe.batch
    order = jax.random.permutation(key, features.shape[1])[: steps * recipe.batch].reshape(steps, recipe.batch)
    rates = decay * jnp.asarray(recipe.rates)

    def step(carry, rows):
        heads, (of_weight, of_bias) = carry
        x, heads = _normalised(recipe, heads, features[:, rows])

        def loss_of(weight, bias):
            logits = jnp.einsum("fbd,frdk->frbk", x, weight) + bias[:, :, None]
            truth = jnp.broadcast_to(labels[rows], logits.shape[:-1])
            return optax.softmax_cross_entropy_with_integer_labels(logits, truth).mean(-1).sum()

        weight, bias = jax.grad(loss_of, (0, 1))(heads.weight, heads.bias)
        of_weight = recipe.momentum * of_weight + weight + recipe.weight_decay * heads.weight
        of_bias = recipe.momentum * of_bias + bias + recipe.weight_decay * heads.bias
        moved = heads.replace(
            weight=heads.weight - rates[:, None, None] * of_weight, bias=heads.bias - rates[:, None] * of_bias
        )
        return (moved, (of_weight, of_bias)), None

    return jax.lax.scan(step, (heads, momentum), order)[0]


def _normalised(recipe: Recipe, heads: Heads, x: Float[Array, "F B D"]) -> tuple[Float[Array, "F B D"], Heads]:
    """A training batch by its own statistics, and the heads with theirs moved (the unbiased variance, as in torch)."""
    if not recipe.normalize:
        return x, heads
    mean, var, count = x.mean(1), x.var(1), x.shape[1]
    moved = heads.replace(
        mean=heads.mean + RUNNING * (mean - heads.mean),
        var=heads.var + RUNNING * (var * count / max(count - 1, 1) - heads.var),
    )
    return (x - mean[:, None]) * jax.lax.rsqrt(var[:, None] + EPSILON), moved


def accuracies(
    recipe: Recipe, heads: Heads, features: Float[np.ndarray, "F M D"], labels: Int[np.ndarray, " M"]
) -> tuple[Float[np.ndarray, "F R"], Float[np.ndarray, "F R"]]:
    """Shares of images whose class is the first, and among the first five (or all classes, where there are fewer)."""
    hits = [
        _hits(recipe, heads, features[:, i : i + CHUNK], labels[i : i + CHUNK]) for i in range(0, len(labels), CHUNK)
    ]
    one, five = (np.sum([np.asarray(pair[i]) for pair in hits], axis=0) / len(labels) for i in (0, 1))
    return one, five


@functools.partial(jax.jit, static_argnums=0)
def _hits(recipe, heads, x, labels):
    if recipe.normalize:
        x = (x - heads.mean[:, None]) * jax.lax.rsqrt(heads.var[:, None] + EPSILON)
    logits = jnp.einsum("fbd,frdk->frbk", x, heads.weight) + heads.bias[:, :, None]
    logits = jnp.where(jnp.isfinite(logits), logits, -jnp.inf)  # a rate that diverged is wrong, not first
    ranked = jax.lax.top_k(logits, min(5, logits.shape[-1]))[1]
    found = (ranked == labels[:, None]) & jnp.isfinite(logits).any(-1, keepdims=True)
    return found[..., 0].sum(-1), found.any(-1).sum(-1)
