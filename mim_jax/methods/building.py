"""What most methods do to come from a config and to start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from jaxtyping import PRNGKeyArray

from mim_jax.errors import ConfigError, check_keys
from mim_jax.methods.base import Tree


def section(cls: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Keyword arguments for dataclass `cls` from one config section; an unknown key is refused by name."""
    check_keys(cls, values, where)
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def check_numbers(method: Any, whole: tuple[str, ...] = (), shares: tuple[str, ...] = ()) -> None:
    """Refuses keys of `method` in `whole` below 1, and keys in `shares` outside 0 and 1.

    Raises:
        ConfigError: names the key and the value.
    """
    for key in whole:
        if getattr(method, key) < 1:
            raise ConfigError(f"method.{key} {getattr(method, key)} must be 1 or more")
    for key in shares:
        if not 0 <= getattr(method, key) <= 1:
            usual = getattr(type(method), key)
            raise ConfigError(f"method.{key} {getattr(method, key)} must lie between 0 and 1, such as {usual}")


def start(key: PRNGKeyArray, **parts: tuple) -> dict[str, Tree]:
    """Fresh parameters of several modules: name = (module, its arguments ...), each from its own key."""
    keys = jax.random.split(key, len(parts))
    return {name: part[0].init(k, *part[1:])["params"] for (name, part), k in zip(parts.items(), keys, strict=True)}
