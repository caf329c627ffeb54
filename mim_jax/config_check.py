"""The check of a config before anything is computed: every key known, every value of its type and in its range.

The schema is the shared recipe itself, so a new setting needs a line there and, where its range is not its type, a
line here. The sections `model` and `method` are checked by the method, `data` in full by `mim_jax.data`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mim_jax import recipes
from mim_jax.config_rules import MESH_AXES, RULES
from mim_jax.config_values import describe, nearest_key
from mim_jax.errors import ConfigError, nearest

OPEN = ("model", "method")  # the method knows what belongs in these


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
    """The recipe, with a view and a map for each that the config names."""
    schema = recipes.pretrain().to_dict()
    for section in (name for name in schema if isinstance(schema[name], dict) and name in config):
        if not isinstance(config[section], ConfigDict):
            raise ConfigError(f"config.{section} = {config[section]!r}: must be a section of settings")
    views = config.get("data", {}).get("views")
    if isinstance(views, ConfigDict):
        if not len(views):
            raise ConfigError("config.data.views is empty; it needs one view at least: {'image': recipes.view()}")
        schema["data"]["views"] = {name: recipes.view() for name in views}
    maps = config.get("data", {}).get("maps")
    if isinstance(maps, ConfigDict):
        schema["data"]["maps"] = {name: recipes.map_beside() for name in maps}
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
            f"config.training.accumulate = {training.accumulate} micro-batches of equal size; make it a divisor"
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
        raise ConfigError(
            f"config.sharding: '{pattern}' is not a regular expression: {error}; write one such as 'mlp/.*'"
        ) from error
    for axis in (axes,) if isinstance(axes, str) else axes:
        if axis not in ("", *MESH_AXES):
            raise ConfigError(f"config.sharding: '{pattern}' names the mesh axis '{axis}'{nearest(axis, MESH_AXES)}")
