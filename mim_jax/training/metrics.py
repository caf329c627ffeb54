"""Where the numbers of a run go: metrics.jsonl, TensorBoard, Weights & Biases."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from mim_jax.errors import ConfigError

Image = UInt8[np.ndarray, "H W C"] | UInt8[np.ndarray, "H W"] | Float[np.ndarray, "H W C"] | Float[np.ndarray, "H W"]


class Writers:
    """Writes scalars and pictures of a run; does nothing on any but the first process.

    tensorboard: event files in `workdir/tensorboard`. wandb: name of a Weights & Biases project, '' for none.
    resumed_step: the step that the run goes on from; what was logged after it is removed, so that every step stands
        once. None removes nothing.
    config: settings to show beside the numbers in Weights & Biases.

    Raises:
        ConfigError: wandb is asked for and not installed.
    """

    def __init__(
        self,
        workdir: str | Path,
        tensorboard: bool = True,
        wandb: str = "",
        *,
        resumed_step: int | None = None,
        config: Mapping[str, Any] | None = None,
    ):
        self._lines = self._events = self._wandb = None
        if jax.process_index() != 0:
            return
        workdir = Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        if wandb:
            self._wandb = _start_wandb(wandb, workdir, config)
        path = workdir / "metrics.jsonl"
        cut_lines(path, resumed_step)
        self._lines = path.open("a", encoding="utf-8")
        if tensorboard:
            from tensorboardX import SummaryWriter

            purge = None if resumed_step is None else resumed_step + 1
            self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=purge)

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        """One line of JSON, `step` first, and a point in each curve. Values: numbers or arrays of one number."""
        if self._lines is None:
            return
        values = {name: _number(value) for name, value in scalars.items() if name != "step"}
        self._lines.write(json_line(step, values) + "\n")
        self._lines.flush()
        if self._events:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)
            self._events.flush()
        if self._wandb:
            self._wandb.log(values, step=step)

    def write_image(self, step: int, name: str, image: Image) -> None:
        """A picture for TensorBoard and Weights & Biases: uint8, or float in [0, 1]."""
        if self._events:
            layout = "HW" if image.ndim == 2 else "HWC"
            self._events.add_image(name, image, step, dataformats=layout)
            self._events.flush()
        if self._wandb:
            import wandb

            self._wandb.log({name: wandb.Image(image)}, step=step)

    def close(self) -> None:
        """Closes files and connections; safe to call twice."""
        if self._lines:
            self._lines.close()
        if self._events:
            self._events.close()
        if self._wandb:
            self._wandb.finish()
        self._lines = self._events = self._wandb = None

    def __enter__(self) -> Writers:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def json_line(step: int, values: Mapping[str, float | int]) -> str:
    """Strict JSON, which has no NaN: what is not finite is null, and named with its value under `nonfinite`."""
    finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
    strange = {name: str(value) for name, value in values.items() if not math.isfinite(value)}
    return json.dumps({"step": int(step), **finite, **({"nonfinite": strange} if strange else {})}, allow_nan=False)


def cut_lines(path: Path, last_step: int | None) -> None:
    """Removes from a metrics.jsonl half-written lines and, unless `last_step` is None, lines of later steps."""
    if not path.exists():
        return
    before = path.read_text(encoding="utf-8", errors="replace")
    after = "".join(line + "\n" for line in before.split("\n") if _stays(line, last_step))
    if after != before:
        temporary = path.with_name(path.name + ".writing")
        temporary.write_text(after, encoding="utf-8")
        os.replace(temporary, path)


def _stays(line: str, last_step: int | None) -> bool:
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return False
    return last_step is None or step <= last_step


def _number(value: Any) -> float | int:
    """A Python number; float32 becomes the float64 of the same value, so nothing is lost on the way to JSON."""
    return value if isinstance(value, int | float) else np.asarray(value).item()


def _start_wandb(project: str, workdir: Path, config: Mapping[str, Any] | None):
    """Opens, or continues, the one W&B run of this workdir."""
    try:
        import wandb
    except ImportError as error:
        raise ConfigError(
            f"training.wandb is '{project}' but the package wandb is not installed; run `pip install wandb`, or "
            "set training.wandb to ''"
        ) from error
    kept = workdir / "wandb_id.txt"
    name = kept.read_text().strip() if kept.exists() else wandb.util.generate_id()
    kept.write_text(name + "\n")
    return wandb.init(
        project=project, dir=str(workdir), id=name, name=workdir.name, resume="allow", config=dict(config or {})
    )
