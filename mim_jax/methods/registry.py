"""The systems, by name. Adding one is one line here."""

from __future__ import annotations

import importlib

from ml_collections import ConfigDict

from mim_jax.errors import ConfigError, nearest
from mim_jax.methods.base import Method

METHODS = {
    "mae": "mim_jax.methods.mae:MAE",
}


def method_class(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        ConfigError: no such method, with the nearest name.
    """
    if name not in METHODS:
        raise ConfigError(f"method.name '{name}' is not a method{nearest(name, METHODS)}")
    module, _, attribute = METHODS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def build(config: ConfigDict) -> Method:
    """The method of a run's config, checked.

    Raises:
        ConfigError: an unknown key or an impossible value in `model` or `method`.
    """
    method = config.method.to_dict()
    model = {**config.model.to_dict(), "precision": config.training.precision}
    return method_class(method.pop("name", "")).from_config(model, method)
