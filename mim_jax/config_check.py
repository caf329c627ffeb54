"""The check of a config before anything is computed: every key known, every value of its type and in its range.

The schema is the shared recipe itself, so a new setting needs a line there and, where its range is not its type, a
line here. The sections `model` and `method` are checked by the method, `data` in full by `mim_jax.data`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from mim_jax import recipes
from mim_jax.config_values import describe, nearest_key
from mim_jax.errors import ConfigError, nearest

OPEN = ("model", "method")  # the method knows what belongs in these
MESH_AXES = ("data", "fsdp", "tensor")

Rule = tuple[Callable[[Any], bool], str]


def at_least(low: float) -> Rule:
    return lambda v: v >= low, f"at least {low:g}"


def above(low: float) -> Rule:
    return lambda v: v > low, f"above {low:g}"


def within(low: float, high: float) -> Rule:
    return lambda v: low <= v <= high, f"from {low:g} to {high:g}"


def below_one() -> Rule:
    return lambda v: 0 <= v < 1, "at least 0 and below 1"


def one_of(*names: str) -> Rule:
    return lambda v: v in names, f"one of {', '.join(names)}"


def all_of(rule: Rule) -> Rule:
    return lambda v: len(v) > 0 and all(rule[0](x) for x in v), f"one or more values, each {rule[1]}"


def rising() -> Rule:
    def holds(values: Any) -> bool:
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) and v >= 0 for v in values)
        return numbers and list(values) == sorted(set(values))

    return holds, "none or more numbers of at least 0 in rising order, such as (700,)"


def span(low: float, high: float) -> Rule:
    return lambda v: len(v) == 2 and low < v[0] <= v[1] <= high, f"two values (low, high) above {low:g}, up to {high:g}"


RULES: dict[str, Rule] = {
    "seed": at_least(0),
    "data.source": (lambda v: bool(v.strip()), "the name of a data source, such as digits or folder:DIR"),
    "data.fraction": (lambda v: 0 < v <= 1, "above 0, up to 1"),
    "data.channels": at_least(1),
    "data.eval_resize": at_least(1),
    "data.workers": at_least(0),
    "data.threads": at_least(1),
    "data.prefetch": at_least(1),
    "data.on_error": one_of("stop", "skip"),
    "data.max_bad_fraction": within(0, 1),
    "data.max_pixels": at_least(1),
    "optimizer.name": one_of("adamw", "lamb", "lars", "sgd"),
    "optimizer.lr": at_least(0),
    "optimizer.lr_batch": at_least(0),
    "optimizer.min_lr": at_least(0),
    "optimizer.warmup_epochs": at_least(0),
    "optimizer.warmup_lr": at_least(0),
    "optimizer.schedule": one_of("cosine", "cosine_whole", "step"),
    "optimizer.decay_epochs": rising(),
    "optimizer.decay_factor": (lambda v: 0 < v <= 1, "above 0, up to 1"),
    "optimizer.schedule_stretch": above(0),
    "optimizer.freeze_epochs": at_least(0),
    "optimizer.clip": one_of("global", "per_tensor"),
    "optimizer.weight_decay_end": (lambda v: True, "a finite number; negative for none"),
    "optimizer.b1": below_one(),
    "optimizer.b2": below_one(),
    "optimizer.eps": above(0),
    "optimizer.momentum": below_one(),
    "optimizer.trust_coefficient": above(0),
    "optimizer.weight_decay": at_least(0),
    "optimizer.layer_decay": (lambda v: 0 < v <= 1, "above 0, up to 1"),
    "optimizer.clip_norm": at_least(0),
    "optimizer.ema": below_one(),
    "training.epochs": above(0),
    "training.batch_size": at_least(1),
    "training.accumulate": at_least(1),
    "training.precision": one_of("bf16", "fp32"),
    "training.log_every": at_least(1),
    "training.on_nonfinite": one_of("stop", "skip"),
    "training.max_skipped": at_least(1),
    "training.checkpoint.every_epochs": at_least(0),
    "training.checkpoint.every_minutes": at_least(0),
    "training.checkpoint.keep": at_least(1),
    "training.checkpoint.metric": one_of("knn", "val_loss"),
    "training.evaluate.loss_every_epochs": at_least(0),
    "training.evaluate.knn_every_epochs": at_least(0),
    "training.evaluate.pictures_every_epochs": at_least(0),
    "training.evaluate.images": at_least(1),
    "evaluation.knn.k": all_of(at_least(1)),
    "evaluation.knn.temperature": above(0),
    "evaluation.knn.feature": one_of("cls", "pooled"),
    "evaluation.knn.batch_size": at_least(1),
    "evaluation.linear.feature": one_of("cls", "pooled"),
    "evaluation.linear.scale": span(0, 1),
    "evaluation.linear.trust_coefficient": above(0),
    "evaluation.linear.momentum": below_one(),
    "evaluation.attentive.scale": span(0, 1),
    "evaluation.attentive.momentum": below_one(),
    "evaluation.attentive.heads": at_least(0),
    "evaluation.attentive.cache_gb": at_least(0),
    "evaluation.finetune.scale": span(0, 1),
    "evaluation.finetune.b1": below_one(),
    "evaluation.finetune.b2": below_one(),
    "evaluation.finetune.layer_decay": (lambda v: 0 < v <= 1, "above 0, up to 1"),
    "evaluation.finetune.drop_path_rate": below_one(),
    "evaluation.finetune.pooling": one_of("mean", "cls"),
    "evaluation.finetune.mixup_probability": within(0, 1),
    "evaluation.finetune.mixup_switch_probability": within(0, 1),
    "evaluation.finetune.label_smoothing": below_one(),
    "evaluation.finetune.random_erasing": within(0, 1),
}
# The same names mean the same in every evaluation that trains something.
for _section in ("linear", "attentive", "finetune"):
    RULES[f"evaluation.{_section}.epochs"] = above(0)
    RULES[f"evaluation.{_section}.batch_size"] = at_least(1)
    for _key in ("warmup_epochs", "lr", "lr_batch", "min_lr", "weight_decay", "clip_norm", "mixup", "cutmix"):
        RULES[f"evaluation.{_section}.{_key}"] = at_least(0)


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """All values of a config by their dotted key."""
    values: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            values.update(flat(value, f"{prefix}{key}."))
        else:
            values[f"{prefix}{key}"] = value
    return values


def names(config: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The dotted names of all values and of all sections."""
    found: list[str] = []
    for key, value in config.items():
        found.append(f"{prefix}{key}")
        if isinstance(value, Mapping | ConfigDict):
            found += names(value, f"{prefix}{key}.")
    return found


def check(config: ConfigDict) -> None:
    """Refuses a config with an unknown, missing or mistyped key, or with an impossible value.

    Raises:
        ConfigError: names the key, the value, and the nearest valid key or what the value must be.
    """
    schema = _schema(config)
    known = flat(schema)
    for key, value in flat(config).items():
        if key.split(".")[0] in OPEN:
            _check_plain(key, value)
        elif key not in known:
            raise ConfigError(f"config.{key} is not a setting{nearest_key(key, names(schema))}")
        else:
            _check_type(key, value, known[key])
    given = flat(config)
    for key in known:
        if key not in given:
            raise ConfigError(f"config.{key} is missing; start the config from mim_jax.recipes.pretrain()")
    for key, (holds, words) in RULES.items():
        if key in given and not (_finite(given[key]) and holds(given[key])):
            raise ConfigError(f"config.{key} = {given[key]!r}: must be {words}{_nearest_name(given[key], words)}")
    _check_together(config)


def _schema(config: ConfigDict) -> dict[str, Any]:
    """The recipe, with a view for each view that the config names."""
    schema = recipes.pretrain().to_dict()
    for section in (name for name in schema if isinstance(schema[name], dict) and name in config):
        if not isinstance(config[section], ConfigDict):
            raise ConfigError(f"config.{section} = {config[section]!r}: must be a section of settings")
    views = config.get("data", {}).get("views")
    if isinstance(views, ConfigDict):
        if not len(views):
            raise ConfigError("config.data.views is empty; it needs one view at least: {'image': recipes.view()}")
        schema["data"]["views"] = {name: recipes.view() for name in views}
    return schema


def _check_type(key: str, value: Any, like: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = {
        bool: isinstance(value, bool),
        int: number and isinstance(value, int),
        float: number,
        str: isinstance(value, str),
        tuple: isinstance(value, tuple | list),
    }[type(like)]
    if fits and isinstance(like, tuple) and like and isinstance(like[0], int | float):
        fits = all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
    if not fits:
        raise ConfigError(f"config.{key} = {value!r}: must be {describe(like)}")


def _check_plain(key: str, value: Any) -> None:
    """Values that JSON cannot hold could not be saved with the run."""
    items = value if isinstance(value, tuple | list) else (value,)
    for item in items:
        if isinstance(item, tuple | list):
            _check_plain(key, item)
        elif not (item is None or isinstance(item, bool | int | float | str)):
            raise ConfigError(f"config.{key} = {value!r}: must be a number, text, true/false, none or a list of these")


def _finite(value: Any) -> bool:
    items = value if isinstance(value, tuple | list) else (value,)
    return all(math.isfinite(v) for v in items if isinstance(v, int | float))


def _nearest_name(value: Any, words: str) -> str:
    close = nearest(value, words.removeprefix("one of ").split(", ")) if words.startswith("one of ") else ""
    return close if "did you mean" in close else ""


def _check_together(config: ConfigDict) -> None:
    training, mesh = config.training, config.mesh
    if training.batch_size % training.accumulate:
        raise ConfigError(
            f"config.training.batch_size = {training.batch_size} does not divide into "
            f"config.training.accumulate = {training.accumulate} micro-batches of equal size"
        )
    for axis in MESH_AXES:
        if mesh[axis] < 1 and mesh[axis] != -1:
            raise ConfigError(f"config.mesh.{axis} = {mesh[axis]}: must be at least 1, or -1 for all devices left over")
    if sum(mesh[axis] == -1 for axis in MESH_AXES) > 1:
        several = " and ".join(f"config.mesh.{axis}" for axis in MESH_AXES if mesh[axis] == -1)
        raise ConfigError(f"{several} are -1: only one axis of the mesh may take all devices left over")
    for rule in config.sharding:
        _check_sharding_rule(rule)


def _check_sharding_rule(rule: Any) -> None:
    if not (isinstance(rule, tuple | list) and len(rule) == 2 and isinstance(rule[0], str)):
        raise ConfigError(
            f"config.sharding has {rule!r}: each rule is (pattern, axes), such as ('mlp/.*', ('', 'tensor'))"
        )
    pattern, axes = rule
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"config.sharding: '{pattern}' is not a regular expression: {error}") from error
    for axis in (axes,) if isinstance(axes, str) else axes:
        if axis not in ("", *MESH_AXES):
            raise ConfigError(f"config.sharding: '{pattern}' names the mesh axis '{axis}'{nearest(axis, MESH_AXES)}")
