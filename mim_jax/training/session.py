"""A run in progress: the fixed parts that the functions of the loop share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mim_jax.methods.base import Method, Variables
from mim_jax.training.checkpoints import Checkpoints
from mim_jax.training.course import Course
from mim_jax.training.events import Events
from mim_jax.training.left_out import LeftOut
from mim_jax.training.metrics import Writers
from mim_jax.training.record_log import RecordLog
from mim_jax.training.resolve import Plan
from mim_jax.training.state import TrainState
from mim_jax.training.step import StepSettings

Tree = Any


@runtime_checkable
class Evaluator(Protocol):
    """Something that looks at the weights now and then."""

    name: str
    every_steps: int  # 0: never

    def __call__(self, variables: Variables, step: int) -> dict[str, float]:
        """Named numbers for the log; may write pictures."""
        ...


@runtime_checkable
class Data(Protocol):
    """What the loop asks of the training data; and `follow(course)`, where the batch size may change on the way."""

    records: int

    def open_at(self, step: int) -> Iterator[dict[str, np.ndarray]]:
        """This process's batches from a step on."""
        ...


class Fault(NamedTuple):
    """kind: not finite (nothing has moved) | spoiled (the step made a value that is not finite) | spike."""

    kind: str
    step: int
    loss: float | int = 0.0


@dataclasses.dataclass
class Session:
    """abstract: shapes of the state with their shardings. begin: makes the state of step 0.

    peak: FLOP/s of all devices together.
    """

    config: ConfigDict
    workdir: Path
    method: Method
    mesh: Mesh
    plan: Plan
    course: Course
    settings: StepSettings
    key: jax.Array
    peak: float
    abstract: TrainState
    begin: Callable[[], tuple[TrainState, Tree]]
    checkpoints: Checkpoints
    events: Events
    writers: Writers
    records: RecordLog
    left_out: LeftOut

    def judge(self, watched: Sequence[Mapping[str, jax.Array]]) -> Fault | None:
        """The first fault in what steps have reported, in their order; what comes after it is void."""
        for scalars in watched:
            if bool(scalars["hold"]):
                return Fault("spoiled" if bool(scalars["spoiled"]) else "not finite", int(scalars["step"]))
            if self.left_out.factor:
                step, loss = int(scalars["step"]), float(scalars["loss"])
                if self.left_out.is_spike(loss):
                    if len(self.left_out.spikes) < self.left_out.most:
                        return Fault("spike", step, loss)
                    self.events.add(step, "spike", f"the loss jumped to {loss:.4g} at step {step}; no more rewinds")
                self.left_out.saw(loss)
        return None

    def position(self, step: int) -> dict[str, Any]:
        """What a checkpoint keeps beside the state: the place in the data, and what was left out."""
        return {**self.course.place(step), **self.left_out.to_json()}
