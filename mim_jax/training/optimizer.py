"""Optimizers composed from optax; whatever changes during the run comes in with every update.

A step may be skipped (non-finite gradients), so the rate is a function of the training step that the loop passes in,
`update(grads, state, params, lr=lr)`, and not of a count inside the optimizer; likewise `weight_decay` where it
follows a schedule, and `held` where parameters stand still at first. Moments are trees like `params`, so rules on
parameter paths shard them too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mim_jax.errors import ConfigError, nearest
from mim_jax.methods.base import ParamGroups
from mim_jax.section import Section
from mim_jax.training.adam import scale_by_adam
from mim_jax.training.groups import Group, group_table, path_name
from mim_jax.training.lamb import scale_by_lamb
from mim_jax.training.lars import scale_by_lars

Tree = Any
Mask = Callable[[Tree], Tree]
NAMES = ("adamw", "lamb", "lars", "sgd")
SCHEDULES = ("cosine", "cosine_whole", "step")
CLIPS = ("global", "per_tensor")


def build(optimizer: Section, groups: ParamGroups, params: Tree) -> optax.GradientTransformationExtraArgs:
    """The optimizer of config section `optimizer` for `params` (arrays or shapes).

    Its `update(grads, state, params, lr=lr, moved=True)` returns what is to be added to the parameters; where `moved`
    is false the state stays as it was, and what is returned means nothing. Where `weight_decay_end` is
    set it also takes `weight_decay`, and where `freeze_epochs` is set `held`, whether those epochs still last. Frozen
    parameters get zeros, hold no moments and are not part of the clipped norm.

    Raises:
        ConfigError: an impossible value in the section, a pattern of `groups` that matches nothing, or
            `freeze_epochs` for a method that holds no parameters.
    """
    check(optimizer)
    table = group_table(groups, params, layer_decay=optimizer["layer_decay"])
    direction = _direction(optimizer, _mask(table, "decay"))
    if optimizer["freeze_epochs"] > 0:
        if not groups.frozen_first:
            raise ConfigError(
                f"optimizer.freeze_epochs is {optimizer['freeze_epochs']}, but the method has no parameters that stand "
                "still at first; set it to 0"
            )
        direction = hold_first(direction, _labels(table, "held", "free"))
    parts = [direction, scale_by_learning_rate(table)]
    if optimizer["clip_norm"] > 0:
        parts.insert(0, _clip(optimizer))
    trained = optax.chain(*parts)
    if optimizer["name"] != "adamw":  # whose moments are most of the state, and see to it themselves
        trained = stay_unless_moved(trained)
    if not any(group.frozen for group in table.values()):
        return optax.with_extra_args_support(trained)
    return optax.partition({"on": trained, "frozen": optax.set_to_zero()}, _labels(table, "frozen", "on"))


def _mask(table: Mapping[str, Group], field: str) -> Mask:
    """Tree -> the same tree with that field of each parameter's group at its leaf."""

    def mask(tree: Tree) -> Tree:
        return jax.tree_util.tree_map_with_path(lambda path, _: getattr(table[path_name(path)], field), tree)

    return mask


def _labels(table: Mapping[str, Group], field: str, otherwise: str) -> Mask:
    """Tree -> the same tree with the name of the field, or `otherwise`, at its leaves."""
    mask = _mask(table, field)
    return lambda tree: jax.tree.map(lambda on: field if on else otherwise, mask(tree))


def _direction(optimizer: Section, mask: Mask) -> optax.GradientTransformation:
    """The step before it is multiplied by minus the learning rate."""
    decay, scheduled = optimizer["weight_decay"], optimizer["weight_decay_end"] >= 0
    decayed = add_scheduled_decay(mask) if scheduled else optax.add_decayed_weights(decay, mask=mask)
    if optimizer["name"] == "lars":
        lars = scale_by_lars(optimizer["momentum"], optimizer["trust_coefficient"], 0.0 if scheduled else decay, mask)
        return optax.chain(decayed, lars) if scheduled else lars
    if optimizer["name"] == "sgd":
        return optax.chain(decayed, optax.trace(decay=optimizer["momentum"]))
    adam = scale_by_adam(optimizer["b1"], optimizer["b2"], optimizer["eps"])
    if optimizer["name"] == "lamb" and (decay > 0 or scheduled):
        return scale_by_lamb(adam, decayed, mask)
    return optax.chain(adam, decayed)


def stay_unless_moved(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """The state of `inner` stays as it was where `moved`, which `update` takes by name, is false."""
    inner = optax.with_extra_args_support(inner)

    def update(updates, state, params=None, *, moved=True, **extra):
        updates, new = inner.update(updates, state, params, **extra)
        return updates, jax.tree.map(lambda a, b: jnp.where(moved, a, b), new, state)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def add_scheduled_decay(mask: Mask) -> optax.GradientTransformationExtraArgs:
    """Adds `weight_decay`, which `update` takes by name, times the parameter where `mask` is true."""

    def update(updates, state, params=None, *, weight_decay, **_):
        add = lambda on, u, p: u + weight_decay * p if on else u  # noqa: E731
        return jax.tree.map(add, mask(updates), updates, params), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def hold_first(inner: optax.GradientTransformation, labels: Mask) -> optax.GradientTransformationExtraArgs:
    """Nothing of the parameters labelled 'held' moves while `held`, which `update` takes by name, is true.

    They get no step and no weight decay, and their moments and the step count of Adam's bias correction, which they
    have for themselves, wait too: what PyTorch does with a parameter whose gradient is None (DINO, Caron et al. 2021).
    """
    inner = optax.with_extra_args_support(inner)

    def update(updates, state, params=None, *, held, **extra):
        moved, new = inner.update(updates, state, params, **extra)
        moved = jax.tree.map(lambda u: jnp.where(held, jnp.zeros_like(u), u), moved)
        return moved, jax.tree.map(lambda a, b: jnp.where(held, b, a), new, state)

    waiting = optax.GradientTransformationExtraArgs(inner.init, update)
    return optax.partition({"held": waiting, "free": inner}, labels)


def scale_by_learning_rate(table: Mapping[str, Group]) -> optax.GradientTransformationExtraArgs:
    """Multiplies by minus `lr`, which `update` takes by name, and by each parameter's `lr_scale`."""

    def update(updates, state, params=None, *, lr, **_):
        del params
        scale = lambda path, u: -(lr * table[path_name(path)].lr_scale) * u  # noqa: E731
        return jax.tree_util.tree_map_with_path(scale, updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _clip(optimizer: Section) -> optax.GradientTransformation:
    """timm's LAMB, unlike everybody else, adds nothing to the norm."""
    eps = 0.0 if optimizer["name"] == "lamb" else 1e-6
    clip = clip_by_norm if optimizer["clip"] == "global" else clip_each_by_norm
    return clip(optimizer["clip_norm"], eps)


def clip_by_norm(max_norm: float, eps: float = 1e-6) -> optax.GradientTransformation:
    """Scales all gradients by `min(1, max_norm / (norm + eps))`, as PyTorch's `clip_grad_norm_` does.

    optax.clip_by_global_norm has no eps; the difference would show in comparisons with the original runs.
    """
    return optax.stateless(lambda updates, _: _clipped(updates, optax.tree.norm(updates), max_norm, eps))


def clip_each_by_norm(max_norm: float, eps: float = 1e-6) -> optax.GradientTransformation:
    """Scales the gradient of each parameter by `min(1, max_norm / (its norm + eps))` (DINO, Caron et al. 2021)."""

    def clip(updates: Tree, _: Tree) -> Tree:
        return jax.tree.map(lambda u: _clipped(u, optax.tree.norm(u), max_norm, eps), updates)

    return optax.stateless(clip)


def _clipped(updates: Tree, norm: Any, max_norm: float, eps: float) -> Tree:
    scale = jnp.minimum(1.0, max_norm / (norm + eps))
    return jax.tree.map(lambda u: u * scale, updates)


def peak_lr(optimizer: Section, batch_size: int) -> float:
    """The highest learning rate: `lr * batch_size / lr_batch`, or `lr` itself where `lr_batch` is 0."""
    if optimizer["lr_batch"] == 0:
        return float(optimizer["lr"])
    return optimizer["lr"] * batch_size / optimizer["lr_batch"]


def batch_factor(optimizer: Section, batch_size: int) -> float:
    """What `lr` is multiplied by: `batch_size / lr_batch`, or 1 where `lr_batch` is 0."""
    return batch_size / optimizer["lr_batch"] if optimizer["lr_batch"] else 1.0


# What each number may be, in the interval notation of mathematics.
_RANGES = {
    "lr": "(0, inf)",
    "lr_batch": "[0, inf)",
    "min_lr": "[0, inf)",
    "warmup_epochs": "[0, inf)",
    "warmup_lr": "[0, inf)",
    "decay_factor": "(0, 1]",
    "schedule_stretch": "(0, inf)",
    "schedule_offset": "(-inf, inf)",
    "b1": "[0, 1)",
    "b2": "[0, 1)",
    "eps": "(0, inf)",
    "momentum": "[0, 1)",
    "trust_coefficient": "(0, inf)",
    "weight_decay": "[0, inf)",
    "weight_decay_end": "(-inf, inf)",
    "layer_decay": "(0, 1]",
    "clip_norm": "[0, inf)",
    "freeze_epochs": "[0, inf)",
    "ema": "[0, 1)",
}
_NAMES = {"name": (NAMES, "no optimizer"), "schedule": (SCHEDULES, "no schedule"), "clip": (CLIPS, "no way to clip")}


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
    for key, (known, what) in _NAMES.items():
        if optimizer[key] not in known:
            raise ConfigError(
                f"{where}.{key} is {optimizer[key]!r}, which is {what} here{nearest(optimizer[key], known)}"
            )
    for key, interval in _RANGES.items():
        if not _within(optimizer[key], interval):
            raise ConfigError(f"{where}.{key} is {optimizer[key]!r}; it must be a number in {interval}")
    if optimizer["schedule_offset"] != int(optimizer["schedule_offset"]):
        raise ConfigError(f"{where}.schedule_offset is {optimizer['schedule_offset']!r}; it must be a whole number")
    warmup = optimizer["warmup_epochs"]
    if optimizer["schedule"] == "step":
        _check_decay_epochs(optimizer["decay_epochs"], warmup, where)
    if epochs is not None and warmup > epochs:
        raise ConfigError(f"{where}.warmup_epochs is {warmup}, more than the {epochs} epochs of the run; lower it")
    if batch_size is not None:
        peak = peak_lr(optimizer, batch_size)
        factor = batch_factor(optimizer, batch_size) if optimizer["scale_min_lr"] else 1.0
        for key in ("min_lr", "warmup_lr"):
            if optimizer[key] * factor > peak * (1 + 1e-9):
                value = f"{optimizer[key]}" + (f" x {factor:g}" if factor != 1 else "")
                raise ConfigError(f"{where}.{key} is {value}, above the peak learning rate {peak:g}; lower it")


def _check_decay_epochs(decay_epochs: Any, warmup: float, where: str) -> None:
    epochs = list(decay_epochs)
    if not epochs or not all(_within(epoch, "[0, inf)") for epoch in epochs) or epochs != sorted(set(epochs)):
        raise ConfigError(f"{where}.decay_epochs is {decay_epochs!r}; schedule 'step' needs one or more rising epochs")
    if epochs[0] < warmup:
        raise ConfigError(
            f"{where}.decay_epochs begins at {epochs[0]}, before the warm-up of {warmup} epochs ends; raise it"
        )


def _within(value: Any, interval: str) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    return above and (value <= high if interval[-1] == "]" else value < high)
