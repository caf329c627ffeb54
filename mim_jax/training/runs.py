"""A run on disk, opened for evaluation, pictures and export."""

from __future__ import annotations

import dataclasses
import os
from functools import partial
from pathlib import Path

import jax
from ml_collections import ConfigDict

from mim_jax import config as configs
from mim_jax.errors import CheckpointError
from mim_jax.methods import registry
from mim_jax.methods.base import Batch, Method, Variables
from mim_jax.training import bucket
from mim_jax.training.checkpoints import Checkpoints, Which, params_hash
from mim_jax.training.state import run_key
from mim_jax.training.views import Views

IMPORT_NOTE = "import.json"  # in runs that were not trained here: where the weights came from


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished or unfinished run: its config, method and the weights of one checkpoint.

    variables.params are the moving average where the run keeps one; variables.frozen is empty where the run was
    imported without its tokenizer or teacher.
    """

    workdir: Path
    config: ConfigDict
    method: Method
    variables: Variables
    step: int
    checkpoint_hash: str

    def fresh(self) -> Variables:
        """The variables that the run started from: the untrained baseline of every evaluation."""
        return fresh_variables(self.config, self.method)


def fresh_variables(config: ConfigDict, method: Method, batch: Batch | None = None) -> Variables:
    """Untrained variables of a config, the same that its run starts from.

    batch: normalised images, for methods whose start depends on data; zeros of the right shape by default.
    """
    batch = batch or example_batch(config)
    return jax.jit(method.init)(run_key(config.seed, "init"), batch)


def example_batch(config: ConfigDict, size: int = 1) -> Batch:
    """A batch of zeros with the shapes of a run's normalised batches."""
    return Views.from_config(config.data).example(size)


def load_run(workdir: str | os.PathLike[str], step: Which = None) -> Run:
    """Opens a run at a step, at its 'best' checkpoint, or (None) at its last.

    Raises:
        CheckpointError: no run or no such checkpoint in `workdir`.
    """
    workdir = bucket.local_folder(workdir)
    if not (workdir / "config.json").exists():
        raise CheckpointError(f"{workdir} is not a run: it has no config.json; give the --workdir of a `mim-jax train`")
    config = configs.load_json(workdir / "config.json")
    method = registry.build(config)
    checkpoints = Checkpoints(workdir, read_only=True, metric=config.training.checkpoint.metric)
    try:
        shapes = jax.eval_shape(partial(method.init, run_key(config.seed, "init")), example_batch(config))
        weights = "ema" if config.optimizer.ema else "params"
        restored, step = checkpoints.restore_params({weights: shapes.params, "extra": shapes.extra}, step)
        without = (workdir / IMPORT_NOTE).exists() and not (workdir / "frozen").exists()
        frozen = {} if without else checkpoints.restore_frozen(shapes.frozen)
    finally:
        checkpoints.close()
    variables = Variables(restored[weights], restored["extra"], frozen)
    return Run(workdir, config, method, variables, step, params_hash(variables.params))
