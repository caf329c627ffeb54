"""Tokenizers and teachers of a run, read from where its config says they are."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from mim_jax.errors import ConfigError
from mim_jax.methods.base import Method

Tree = Any


def read(config: ConfigDict, method: Method, shapes: Tree) -> dict[str, Tree]:
    """Entries of `frozen` that the method names a source for, in the shapes given; {} where it names none.

    Raises:
        ConfigError: a source that cannot be read or does not fit.
    """
    del config, shapes
    for name, source in method.sources().items():
        if source:
            raise ConfigError(f"method.{name}.source '{source}' is no source that can be read")
    return {}
