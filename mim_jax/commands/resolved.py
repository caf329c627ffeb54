"""`mim-jax config show --resolved`: what a config comes to, from shapes alone, before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from mim_jax.errors import ConfigError
from mim_jax.evaluation.encoders import shapes_of
from mim_jax.methods.base import Method
from mim_jax.training.forecast import training_images
from mim_jax.training.resolve import facts, plan
from mim_jax.training.sharding import make_mesh


def of_run(spec: str) -> dict[str, Any] | None:
    """What the run in the folder `spec` wrote down when it began; None where `spec` is no run.

    Raises:
        ConfigError: a file that cannot be read.
    """
    path = Path(spec) / "resolved.json"
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; remove it, and the run writes it again") from error


def of_config(config: ConfigDict, method: Method, images: int | None = None) -> dict[str, Any]:
    """The facts that a run of `config` on this machine's devices would begin with. images: of its training set.

    Raises:
        ConfigError: a source whose number of images is not known here, or a batch that does not fit.
    """
    records = training_images(config, images)
    if records is None:
        raise ConfigError(
            f"data.source '{config.data.source}' is not here, so the number of steps is not known; say how many "
            "training images it has: --images N"
        )
    mesh = make_mesh(config.mesh, jax.devices())
    return facts(config, method, plan(config, records, mesh), mesh, shapes_of(method).params, records)
