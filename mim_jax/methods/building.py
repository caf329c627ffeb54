"""What most methods do to come from a config and to start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from jaxtyping import PRNGKeyArray

from mim_jax.errors import check_keys
from mim_jax.methods.base import Tree


def section(cls: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Keyword arguments for dataclass `cls` from one config section; an unknown key is refused by name."""
    check_keys(cls, values, where)
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def start(key: PRNGKeyArray, **parts: tuple) -> dict[str, Tree]:
    """Fresh parameters of several modules: name = (module, its arguments ...), each from its own key."""
    keys = jax.random.split(key, len(parts))
    return {name: part[0].init(k, *part[1:])["params"] for (name, part), k in zip(parts.items(), keys, strict=True)}
