"""What a vectorised training leaves: an ordinary run folder for every seed, which every `mim-jax` command can open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from budget.resident import Seeds
from mim_jax import config as configs
from mim_jax.training.checkpoints import Checkpoints
from mim_jax.training.course import Course
from mim_jax.training.lines import write_json
from mim_jax.training.resolve import facts
from mim_jax.training.state import TrainState

NOT_LOGGED = ("hold", "spoiled", "step")


def write(
    made: Seeds, folders: list[Path], states: TrainState, frozen: Any, log: list[dict[str, Any]], seconds: float
) -> None:
    """Writes config.json, resolved.json, metrics.jsonl and the checkpoint of the last step, seed by seed.

    log: by epoch, scalars with an axis of seeds. seconds: of the whole training, all seeds together.
    """
    records = len(made.images)
    for place, (seed, folder) in enumerate(zip(made.seeds, folders, strict=True)):
        folder.mkdir(parents=True, exist_ok=True)
        config = made.config.copy_and_resolve_references()
        with config.unlocked():
            config.seed = seed
        state = jax.tree.map(lambda leaf, i=place: leaf[i], states)
        step = int(state.step)
        resolved = facts(config, made.method, made.plan, made.mesh, made.program.params, records)
        resolved |= {"seconds": seconds / len(made.seeds), "seeds in one program": len(made.seeds)}
        lines = [{key: float(value[place]) for key, value in entry.items() if key not in NOT_LOGGED} for entry in log]
        per_epoch = made.plan.steps_per_epoch
        stepped = [{"step": min(per_epoch * (n + 1), step), **line} for n, line in enumerate(lines)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in stepped))
        checkpoints = Checkpoints(folder, keep=1, meta={"seed": seed})
        try:
            checkpoints.save_frozen(frozen)
            checkpoints.save(step, state, Course(records, config.training.batch_size).place(step), force=True)
            checkpoints.wait()
        finally:
            checkpoints.close()
        configs.save(config, folder / "config.json")
        write_json(folder / "resolved.json", resolved)  # last: its presence says that the run is whole


def means(scalars: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """(steps, seeds) -> (seeds,): the mean of an epoch."""
    return {name: np.asarray(value, np.float64).mean(axis=0) for name, value in scalars.items()}
