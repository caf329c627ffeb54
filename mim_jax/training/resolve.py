"""What a config comes to: every number that a run derives from it, printed before the first step and saved."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mim_jax import __version__
from mim_jax.errors import ConfigError
from mim_jax.methods.base import Method
from mim_jax.training.optimizer import batch_factor, peak_lr
from mim_jax.training.sharding import batch_shards

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


@dataclasses.dataclass(frozen=True)
class Plan:
    """The length of a run.

    total_steps: the number of its last step. shift: see `Course`; the schedules of a run whose batch size has changed
    are read at step + shift, and are `total_steps + shift` steps long.
    """

    steps_per_epoch: int
    total_steps: int
    peak_lr: float
    shift: int = 0

    def steps(self, epochs: float) -> int:
        """Whole steps in a number of epochs, at least one; 0 for 0."""
        return max(1, round(epochs * self.steps_per_epoch)) if epochs > 0 else 0


def plan(config: ConfigDict, records: int, mesh: Mesh, shift: int = 0) -> Plan:
    """Steps and learning rate of a run over `records` training images; shift: of its course.

    Raises:
        ConfigError: a batch that the data, the devices or the micro-batches do not allow.
    """
    size, parts = config.training.batch_size, batch_shards(mesh) * config.training.accumulate
    if size % parts:
        nearest = max(parts, round(size / parts) * parts)
        raise ConfigError(
            f"training.batch_size {size} is not divisible by {batch_shards(mesh)} device shards x "
            f"training.accumulate {config.training.accumulate} = {parts}; nearest valid: {nearest}"
        )
    if size > records:
        raise ConfigError(
            f"training.batch_size {size} is larger than the {records} training images of data.source "
            f"'{config.data.source}'; nearest valid: {records // parts * parts}"
        )
    steps_per_epoch = records // size
    total = max(1, math.floor(config.training.epochs * steps_per_epoch + 0.5))
    return Plan(steps_per_epoch, max(1, total - shift), peak_lr(config.optimizer, size), shift)


def facts(config: ConfigDict, method: Method, plan: Plan, mesh: Mesh, params: Any, records: int) -> dict[str, Any]:
    """The resolved facts as one JSON-ready dictionary. `params`: arrays or shapes."""
    device, optimizer = mesh.devices.flat[0], config.optimizer
    factor = batch_factor(optimizer, config.training.batch_size) if optimizer.scale_min_lr else 1.0
    return {
        "method": method.name,
        "learning rate": {"peak": plan.peak_lr, "minimum": optimizer.min_lr * factor, "base": optimizer.lr},
        "steps": {"total": plan.total_steps, "per epoch": plan.steps_per_epoch},
        "epochs": config.training.epochs,
        "batch": {
            "global": config.training.batch_size,
            "per device": config.training.batch_size // batch_shards(mesh),
            "micro-batches": config.training.accumulate,
        },
        "training images": records,
        "parameters": {**{k: count(v) for k, v in params.items()}, "total": count(params)},
        "training FLOPs per image": method.flops(),
        "devices": {
            "kind": device.device_kind,
            "platform": device.platform,
            "count": mesh.devices.size,
            "mesh": dict(mesh.shape),
            "processes": jax.process_count(),
        },
        "versions": versions(),
        "git revision": git_revision(),
    }


def count(tree: Any) -> int:
    """Number of values in a tree of arrays or shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"mim_jax": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        found[package] = importlib.metadata.version(package)
    return found


def git_revision() -> str:
    """Revision of the source tree this package runs from, '+' where it has uncommitted changes, '' where unknown."""
    here = Path(__file__).parent
    try:
        head = _git(here, "rev-parse", "HEAD")
        return head + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def print_facts(facts: dict[str, Any], file=None) -> None:
    """One line a fact."""
    file = file or sys.stdout
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {_short(v)}" for k, v in value.items())
        print(f"  {name:<26} {_short(value)}", file=file, flush=True)


def _short(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}"
