"""What of a recipe is done already, and how long it took: asked of the runs themselves, times in reproduce.json."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from mim_jax import stages
from mim_jax.evaluation import results
from mim_jax.reproduce.recipe import Step
from mim_jax.training.lines import write_json

FILE = "reproduce.json"


def is_done(step: Step) -> bool:
    """Whether a training has taken all its steps, or an evaluation with these settings stands in eval.json."""
    if step.spec:
        return stages.is_done(step.config(), step.run)
    return result(step) is not None


def result(step: Step) -> dict[str, Any] | None:
    """The newest result of an evaluation, of the last checkpoint and with exactly its settings; None: there is none."""
    try:
        total = json.loads((step.run / "resolved.json").read_text())["steps"]["total"]
    except (OSError, ValueError, KeyError):
        return None
    protocol = step.argv[2].removeprefix("--").replace("-", "_")
    for entry in reversed(results.read(step.run)):
        words = set(shlex.split(entry["command"]))
        same = {f"--config.{change}" for change in step.overrides} == {w for w in words if w.startswith("--config.")}
        with_baselines = "--no-baselines" not in step.argv
        if entry["protocol"] == protocol and entry["checkpoint"]["step"] == total and same:
            if with_baselines and "--no-baselines" in words:
                continue
            return entry
    return None


class Clock:
    """Seconds that every step has taken, over all attempts; on disk after each."""

    def __init__(self, workdir: Path):
        self.path = workdir / FILE
        try:
            found = json.loads(self.path.read_text())
        except (OSError, ValueError):
            found = {}
        self.seconds: dict[str, float] = found.get("seconds", {}) if isinstance(found, dict) else {}

    def add(self, step: Step, seconds: float) -> None:
        key = shlex.join(step.argv)
        self.seconds[key] = round(self.seconds.get(key, 0.0) + seconds, 1)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, {"seconds": self.seconds})

    def hours(self, steps: tuple[Step, ...]) -> float:
        """Of these steps together; 0 where some of them were not run by `reproduce`."""
        known = [self.seconds.get(shlex.join(step.argv)) for step in steps]
        return 0.0 if None in known else sum(filter(None, known)) / 3600
