"""Batches that a run leaves out, and the loss spikes that it leaves them out for.

What is left out must follow from (config, data, seed) alone, or a continued run would be another. So a spike is judged
by the losses of the steps before it, which are kept in the checkpoint; and going back to any checkpoint before the
batches that are left out gives the same run, since the steps in between repeat themselves bit for bit. A run that is
killed on the way back meets the spike again, and does the same again.

Chowdhery et al. PaLM (JMLR 2023), section 5.1: restart before the spike and skip the batches around it.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import statistics
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass
class LeftOut:
    """The steps whose batches are left out, and the watch for spikes.

    factor, window: a loss above `factor` times the median of the last `window` ones is a spike; factor 0: no watch.
    leave_out: batches to leave out for a spike, the last of them the one with the spike. most: spikes to go back for.
    """

    factor: float = 0.0
    window: int = 0
    leave_out: int = 1
    most: int = 0
    steps: set[int] = dataclasses.field(default_factory=set)
    spikes: list[int] = dataclasses.field(default_factory=list)
    losses: collections.deque = dataclasses.field(default_factory=collections.deque)

    @classmethod
    def from_config(cls, training: Any) -> LeftOut:
        """From the `training` section of a config."""
        if training.on_spike == "off":
            return cls()
        spike = training.spike
        made = cls(spike.factor, spike.window, spike.leave_out, spike.most)
        made.losses = collections.deque(maxlen=spike.window)
        return made

    def is_spike(self, loss: float | int) -> bool:
        """Whether the loss of the step that follows those seen so far is one."""
        if not self.factor or len(self.losses) < self.window:
            return False
        usual = statistics.median(self.losses)
        return usual > 0 and loss > self.factor * usual

    def saw(self, loss: float | int) -> None:
        """Takes note of the loss of a step that counts."""
        if self.factor and math.isfinite(loss):
            self.losses.append(float(loss))

    def around(self, step: int) -> set[int]:
        """The steps to leave out for a spike at `step`."""
        return set(range(max(0, step - self.leave_out + 1), step + 1))

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint keeps of it; nothing where there is nothing."""
        values = {"left_out": sorted(self.steps), "spikes": self.spikes, "losses": list(self.losses)}
        return {name: value for name, value in values.items() if value}

    def go_back_to(self, kept: Mapping[str, Any]) -> None:
        """Takes the losses up from what a checkpoint kept, and adds what it knew to be left out."""
        self.steps |= set(kept.get("left_out", ()))
        self.spikes = sorted({*self.spikes, *kept.get("spikes", ())})
        self.losses.clear()
        self.losses.extend(kept.get("losses", ()))
