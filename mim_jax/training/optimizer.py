"""Optimizers composed from optax; the learning rate comes in with every update.

A step may be skipped (non-finite gradients), so the rate is a function of the training step that the loop passes in,
`update(grads, state, params, lr=lr)`, and not of a count inside the optimizer. Moments are trees like `params`, so
rules on parameter paths shard them too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mim_jax.errors import ConfigError, nearest
from mim_jax.methods.base import ParamGroups
from mim_jax.section import Section
from mim_jax.training.groups import Group, group_table, path_name
from mim_jax.training.lars import scale_by_lars

Tree = Any
NAMES = ("adamw", "lars", "sgd")


def build(optimizer: Section, groups: ParamGroups, params: Tree) -> optax.GradientTransformationExtraArgs:
    """The optimizer of config section `optimizer` for `params` (arrays or shapes).

    Its `update(grads, state, params, lr=lr)` returns what is to be added to the parameters. Frozen parameters get
    zeros, hold no moments and are not part of the clipped norm.

    Raises:
        ConfigError: an impossible value in the section, or a pattern of `groups` that matches nothing.
    """
    check(optimizer)
    table = group_table(groups, params, layer_decay=optimizer["layer_decay"])
    parts = [_direction(optimizer, table), scale_by_learning_rate(table)]
    if optimizer["clip_norm"] > 0:
        parts.insert(0, clip_by_norm(optimizer["clip_norm"]))
    trained = optax.chain(*parts)
    if not any(group.frozen for group in table.values()):
        return optax.with_extra_args_support(trained)
    labels = jax.tree_util.tree_map_with_path(lambda p, _: "frozen" if table[path_name(p)].frozen else "on", params)
    return optax.partition({"on": trained, "frozen": optax.set_to_zero()}, labels)


def _direction(optimizer: Section, table: Mapping[str, Group]) -> optax.GradientTransformation:
    """The step before it is multiplied by minus the learning rate."""

    def mask(tree: Tree) -> Tree:
        return jax.tree_util.tree_map_with_path(lambda path, _: table[path_name(path)].decay, tree)

    decay = optimizer["weight_decay"]
    if optimizer["name"] == "lars":
        return scale_by_lars(optimizer["momentum"], optimizer["trust_coefficient"], decay, mask)
    decayed = optax.add_decayed_weights(decay, mask=mask)
    if optimizer["name"] == "sgd":
        return optax.chain(decayed, optax.trace(decay=optimizer["momentum"]))
    return optax.chain(optax.scale_by_adam(optimizer["b1"], optimizer["b2"], optimizer["eps"]), decayed)


def scale_by_learning_rate(table: Mapping[str, Group]) -> optax.GradientTransformationExtraArgs:
    """Multiplies by minus `lr`, which `update` takes by name, and by each parameter's `lr_scale`."""

    def update(updates, state, params=None, *, lr, **_):
        del params
        scale = lambda path, u: -(lr * table[path_name(path)].lr_scale) * u  # noqa: E731
        return jax.tree_util.tree_map_with_path(scale, updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def clip_by_norm(max_norm: float) -> optax.GradientTransformation:
    """Scales all gradients by `min(1, max_norm / (norm + 1e-6))`, as PyTorch's `clip_grad_norm_` does.

    optax.clip_by_global_norm has no 1e-6; the difference would show in comparisons with the original runs.
    """

    def update(updates, state, params=None):
        del params
        scale = jnp.minimum(1.0, max_norm / (optax.tree.norm(updates) + 1e-6))
        return jax.tree.map(lambda u: u * scale, updates), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def peak_lr(optimizer: Section, batch_size: int) -> float:
    """The highest learning rate: `lr * batch_size / lr_batch`, or `lr` itself where `lr_batch` is 0."""
    if optimizer["lr_batch"] == 0:
        return float(optimizer["lr"])
    return optimizer["lr"] * batch_size / optimizer["lr_batch"]


# What each number may be, in the interval notation of mathematics.
_RANGES = {
    "lr": "(0, inf)",
    "lr_batch": "[0, inf)",
    "min_lr": "[0, inf)",
    "warmup_epochs": "[0, inf)",
    "b1": "[0, 1)",
    "b2": "[0, 1)",
    "eps": "(0, inf)",
    "momentum": "[0, 1)",
    "trust_coefficient": "(0, inf)",
    "weight_decay": "[0, inf)",
    "layer_decay": "(0, 1]",
    "clip_norm": "[0, inf)",
    "ema": "[0, 1)",
}


def check(
    optimizer: Section,
    *,
    epochs: float | None = None,
    batch_size: int | None = None,
    where: str = "optimizer",
) -> None:
    """Refuses impossible values; with `epochs` and `batch_size` also a schedule that does not fit the run.

    Raises:
        ConfigError: names the key, its value and the values that are allowed.
    """
    name = optimizer["name"]
    if name not in NAMES:
        raise ConfigError(f"{where}.name is {name!r}, which is no optimizer here{nearest(name, NAMES)}")
    for key, interval in _RANGES.items():
        if not _within(optimizer[key], interval):
            raise ConfigError(f"{where}.{key} is {optimizer[key]!r}; it must be a number in {interval}")
    if epochs is not None and optimizer["warmup_epochs"] > epochs:
        warmup = optimizer["warmup_epochs"]
        raise ConfigError(f"{where}.warmup_epochs is {warmup}, more than the {epochs} epochs of the run; lower it")
    if batch_size is not None and optimizer["min_lr"] > peak_lr(optimizer, batch_size):
        peak = peak_lr(optimizer, batch_size)
        raise ConfigError(f"{where}.min_lr is {optimizer['min_lr']}, above the peak learning rate {peak:g}; lower it")


def _within(value: Any, interval: str) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    return above and (value <= high if interval[-1] == "]" else value < high)
