"""When a loss or gradient is not finite: a bundle that holds the step, and its replay."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from mim_jax import config as configs
from mim_jax.errors import CheckpointError
from mim_jax.methods import registry
from mim_jax.methods.base import Batch, Progress
from mim_jax.training import bucket
from mim_jax.training.groups import flat
from mim_jax.training.state import TrainState, run_key
from mim_jax.training.step import StepSettings
from mim_jax.training.views import Views

Tree = Any


def write_bundle(
    workdir: Path, config: ConfigDict, settings: StepSettings, state: TrainState, frozen: Tree, batch: Batch, step: int
) -> tuple[Path, str]:
    """Writes nonfinite/step_*: report, batch and variables of the step that `state` is about to take, or, where the
    step itself has spoiled a value, has taken. Returns the folder and the name of the first non-finite array."""
    folder = workdir / "nonfinite" / f"step_{step:08d}"
    writing = folder.with_name(folder.name + ".writing")
    variables = {"params": state.params, "extra": state.extra, "frozen": frozen, "ema": state.ema}
    batch = multihost_utils.process_allgather(batch, tiled=True) if jax.process_count() > 1 else jax.device_get(batch)
    report = diagnose(config, settings, variables, batch, step)
    if jax.process_index() == 0:
        shutil.rmtree(writing, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        writing.mkdir(parents=True)
        (writing / "bundle.json").write_text(json.dumps(report, indent=1))
        configs.save(config, writing / "config.json")
        (writing / "settings.json").write_text(json.dumps(_plain(settings)))
        np.savez(writing / "batch.npz", **batch)
    # In a bucket the arrays are written where they stay: every process writes its own share of them.
    remote = len(bucket.places(workdir)) > 1
    where = bucket.home(workdir) / "nonfinite" / folder.name if remote else writing.absolute()
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(where / "variables", {k: v for k, v in variables.items() if jax.tree.leaves(v)}, force=True)
    if jax.process_index() == 0:
        os.replace(writing, folder)
    return folder, report["first non-finite array"]


def diagnose(config: ConfigDict, settings: StepSettings, variables: dict[str, Tree], batch: Batch, step: int) -> dict:
    """Runs one step again, array by array, and names the first that is not finite.

    Returns step, seed, the step's key, record indices, loss, the norm of every parameter and gradient, and the first
    non-finite array in the order inputs, parameters, state, outputs of the modules as they run, loss, gradients from
    the last layer back, state after the update. Norms that are not finite are given as text, so that the report is
    valid JSON.
    """
    plain = config.copy_and_resolve_references()
    for key, value in (("scan", False), ("remat", "none")):
        if key in plain.model:
            plain.model[key] = value
    method = registry.build(plain)
    prepared = settings.views.prepare({k: jnp.asarray(v) for k, v in batch.items()})
    seen = Watch()
    for kind, tree in (("batch", prepared), *variables.items()):
        for name, leaf in flat(tree).items():
            seen.look(f"{kind}/{name}", leaf)
    progress = Progress.at(step + settings.shift, settings.total_steps, settings.steps_per_epoch)
    args = (variables.get("extra", {}), variables.get("frozen", {}), prepared)
    step_key = jax.random.fold_in(run_key(config.seed, "train"), step)
    draws = method.draw(variables["params"], *args, step_key, progress)
    with nn.intercept_methods(seen.intercept):
        loss, output = method.forward(variables["params"], *args, draws, progress)
    seen.look("loss", loss)
    grads = jax.grad(lambda p: method.forward(p, *args, draws, progress)[0])(variables["params"])
    arrays = flat(variables["params"])
    for name, leaf in sorted(flat(grads).items(), key=lambda item: seen.order(arrays[item[0]]), reverse=True):
        seen.look(f"gradient/{name}", leaf)
    moved = method.update(args[0], variables["params"], output.replace(trace={}), progress)
    for name, leaf in flat(moved).items():
        seen.look(f"extra after the update/{name}", leaf)
    return {
        "step": step,
        "seed": config.seed,
        "key": jax.random.key_data(step_key).tolist(),
        "records": np.asarray(batch["index"]).tolist() if "index" in batch else [],
        "loss": _number(loss),
        "first non-finite array": seen.first or "none: the step is finite when it is run array by array",
        "parameter norms": {n: _number(jnp.linalg.norm(p)) for n, p in flat(variables["params"]).items()},
        "gradient norms": {n: _number(jnp.linalg.norm(g)) for n, g in flat(grads).items()},
    }


class Watch:
    """Remembers the name of the first array that is not finite, and in which order the modules ran."""

    def __init__(self) -> None:
        self.first = ""
        self._order: dict[int, int] = {}  # identity of a parameter -> when the module that holds it began

    def look(self, name: str, array: Any) -> None:
        floating = jnp.issubdtype(jnp.asarray(array).dtype, jnp.floating)
        if not self.first and floating and not bool(jnp.isfinite(array).all()):
            self.first = name

    def order(self, parameter: Any) -> int:
        """When the module that holds a parameter began; 0 where none was seen to use it."""
        return self._order.get(id(parameter), 0)

    def intercept(self, call, args, kwargs, context):
        """Looks at what every module returns, in the order in which they run."""
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        for leaf in context.module.variables.get("params", {}).values():  # its own, not those of modules within it
            self._order.setdefault(id(leaf), len(self._order) + 1)
        out = call(*args, **kwargs)
        for leaf in jax.tree.leaves(out):
            self.look("output of " + "/".join((type(context.module).__name__, *context.module.path)), leaf)
        return out


def replay(bundle: str | Path) -> dict:
    """Runs the step of a bundle again on this machine, prints what it finds, and returns the report.

    Raises:
        CheckpointError: the folder is not a bundle.
    """
    folder = Path(bundle)
    try:
        stored = json.loads((folder / "bundle.json").read_text())
        settings = json.loads((folder / "settings.json").read_text())
        with np.load(folder / "batch.npz") as arrays:
            batch = dict(arrays)
        with ocp.StandardCheckpointer() as checkpointer:
            variables = checkpointer.restore((folder / "variables").absolute())
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{folder} is not a non-finite bundle ({error}); give a folder nonfinite/step_*"
        ) from error
    config = configs.load_json(folder / "config.json")
    report = diagnose(config, _settings(settings), variables, batch, stored["step"])
    print(f"step {report['step']}, seed {report['seed']}, {len(report['records'])} records: loss {report['loss']}")
    print(f"first non-finite array: {report['first non-finite array']}")
    print(f"when it happened:       {stored['first non-finite array']}")
    print(f"{'parameter':<48} {'norm':>12} {'gradient norm':>14}")
    for name, norm in report["parameter norms"].items():
        print(f"{name:<48} {norm!s:>12.12} {report['gradient norms'][name]!s:>14.12}")
    return report


def _number(value: Any) -> float | str:
    value = float(value)
    return value if np.isfinite(value) else str(value)


def _plain(settings: StepSettings) -> dict:
    values = dataclasses.asdict(settings)
    del values["learning_rate"], values["weight_decay"]
    return values


def _settings(values: dict) -> StepSettings:
    return StepSettings(learning_rate=float, **{**values, "views": Views.from_json(values["views"])})
