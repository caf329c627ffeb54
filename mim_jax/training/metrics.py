"""Where the numbers of a run go: metrics.jsonl, TensorBoard, Weights & Biases."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from mim_jax.errors import ConfigError
from mim_jax.training.lines import Lines, cut_lines

Image = UInt8[np.ndarray, "H W C"] | UInt8[np.ndarray, "H W"] | Float[np.ndarray, "H W C"] | Float[np.ndarray, "H W"]


class Writers:
    """Writes scalars and pictures of a run; does nothing on any but the first process.

    tensorboard: event files in `workdir/tensorboard`. wandb: name of a Weights & Biases project, '' for none.
    resumed_step: the step that the run goes on from; what was logged after it is removed, so that every step stands
        once. None removes nothing.
    config: settings to show beside the numbers in Weights & Biases.
    trouble: is told why nothing can be written, once each time that begins. A full disk stops nothing: lines wait in
        memory, TensorBoard's curves have a gap. relief: is told that lines are written again.

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
        trouble: Callable[[str], None] = lambda why: None,
        relief: Callable[[], None] = lambda: None,
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
        self._lines = Lines(path, trouble, relief)
        if tensorboard:
            self._events = TensorBoard(workdir / "tensorboard", resumed_step)

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        """One line of JSON, `step` first, and a point in each curve. Values: numbers or arrays of one number."""
        if self._lines is None:
            return
        values = {name: _number(value) for name, value in scalars.items() if name != "step"}
        self._lines.write(json_line(step, values))
        if self._events:
            self._events.write(lambda to: [to.add_scalar(name, value, step) for name, value in values.items()])
        if self._wandb:
            self._wandb.log(values, step=step)

    def write_image(self, step: int, name: str, image: Image) -> None:
        """A picture for TensorBoard and Weights & Biases: uint8, or float in [0, 1]."""
        if self._events:
            layout = "HW" if image.ndim == 2 else "HWC"
            self._events.write(lambda to: to.add_image(name, image, step, dataformats=layout))
        if self._wandb:
            import wandb

            self._wandb.log({name: wandb.Image(image)}, step=step)

    def cut(self, last_step: int) -> None:
        """Removes what was written of later steps: the run goes back to `last_step`."""
        if self._lines:
            self._lines.cut(last_step)
        if self._events:
            self._events.restart(last_step)

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


class TensorBoard:
    """Event files that a full disk interrupts and nothing more.

    tensorboardX writes in a thread of its own, which a failed write ends without a word; then its short queue would
    fill and the run would wait for ever. So the queue is long, and a writer whose thread has ended is replaced.
    """

    PAUSE = 60.0  # seconds before the next try

    def __init__(self, folder: Path, resumed_step: int | None):
        self._folder = folder
        self._writer: Any = None
        self._purge = None if resumed_step is None else resumed_step + 1
        self._not_before = 0.0  # of the monotonic clock

    def write(self, add: Callable[[Any], Any]) -> None:
        """Lets `add` add to a writer; what a full disk does not take is lost."""
        try:
            if time.monotonic() < self._not_before:
                return
            if self._writer is None:
                self._writer = _summary_writer()(str(self._folder), purge_step=self._purge, max_queue=100_000)
                self._purge = None
            if not self._worker().is_alive():
                self._abandon()
                return
            add(self._writer)
            self._writer.flush()
        except OSError:
            self._abandon()

    def restart(self, last_step: int) -> None:
        """Later points are hidden by the file that comes next."""
        self.close()
        self._purge = last_step + 1

    def close(self) -> None:
        if self._writer is not None and self._worker().is_alive():
            with contextlib.suppress(OSError):
                self._writer.close()
        self._writer = None

    def _worker(self) -> Any:
        return self._writer.file_writer.event_writer._worker

    def _abandon(self) -> None:
        """Leaves the writer behind without waiting for what nobody reads any more."""
        if self._writer is not None:
            events = self._writer.file_writer.event_writer
            events._event_queue.cancel_join_thread()
            events._closed = True  # its finaliser would flush again
        self._not_before = time.monotonic() + self.PAUSE
        self._writer = None


def _summary_writer() -> Any:
    """tensorboardX's class. Where torch is installed the module would import it, seconds and 200 MB of no use here."""
    unwanted = "torch" not in sys.modules
    if unwanted:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        from tensorboardX import SummaryWriter
    finally:
        if unwanted:
            del sys.modules["torch"]
    return SummaryWriter


def json_line(step: int, values: Mapping[str, float | int]) -> str:
    """Strict JSON, which has no NaN: what is not finite is null, and named with its value under `nonfinite`."""
    finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
    strange = {name: str(value) for name, value in values.items() if not math.isfinite(value)}
    return json.dumps({"step": int(step), **finite, **({"nonfinite": strange} if strange else {})}, allow_nan=False)


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
