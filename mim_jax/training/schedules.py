"""Learning rate and weight decay as functions of the step (or of the fractional epoch); nothing here counts."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mim_jax.section import Section
from mim_jax.training.optimizer import batch_factor, peak_lr

Number = float | int
Scalar = float | int | Float[np.ndarray, "..."] | Float[Array, "..."]
Step = int | Int[np.ndarray, "..."] | Int[Array, "..."]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A value at every step of a run: a straight warm-up from `start` to `peak`, then `shape`.

    steps_per_epoch, epochs: length of the run; warmup_epochs, decay_epochs: fractional epochs.
    shape: `cosine`, half a cosine from the end of the warm-up to `minimum` at the end of the run, constant
        afterwards; `cosine_whole`, the same counted from step 0, so that the value jumps at the end of the warm-up
        (timm's scheduler, as SimMIM uses it); `step`, `peak` times `decay_factor` for every one of `decay_epochs` that
        has begun.
    warmup_inclusive: `peak` is reached at the last step of the warm-up (DINO, BEiT), not at the first one after it.
    end_inclusive: `minimum` is reached at the last step of the run (SparK), not at the one that would follow.
    stretch: the schedule is that of a run this many times as long (I-JEPA: 1.25).
    offset: steps by which the schedule is read ahead (I-JEPA: 1) or, negative, behind (timm: -1, never before step 0).

    Called with a Python or NumPy integer it computes in float64. With a JAX array it is exact to float32 rounding for
    every step of any run: the distance to the end is taken in whole steps before it becomes a float.
    MAE (He et al. 2022), appendix A.1; SGDR (Loshchilov and Hutter 2017), section 3.
    """

    peak: Number
    steps_per_epoch: int
    epochs: Number
    minimum: Number = 0.0
    warmup_epochs: Number = 0.0
    start: Number = 0.0
    shape: str = "cosine"
    decay_epochs: tuple[Number, ...] = ()
    decay_factor: Number = 0.1
    warmup_inclusive: bool = False
    end_inclusive: bool = False
    stretch: Number = 1.0
    offset: int = 0

    def __call__(self, step: Step) -> Scalar:
        """The value at a step, or at each of an array of steps."""
        xp = jnp if isinstance(step, jax.Array) else np
        step = xp.maximum(step + self.offset, 0) if self.offset else step
        epoch, left = self._epoch_and_left(step)
        if self.shape == "step":
            after = self._decayed(xp, step)
        else:
            whole = self.shape == "cosine_whole"
            after = _falling(xp, left, self.peak, self.minimum, self._end() - (0 if whole else self.warmup_epochs))
        length = self.warmup_epochs - (1 / self.steps_per_epoch if self.warmup_inclusive else 0)
        return xp.where(epoch < self.warmup_epochs, _rising(epoch, self.start, self.peak, length), after)[()]

    def _end(self) -> Number:
        """The epoch at which `minimum` is reached."""
        end = self.epochs
        if self.stretch != 1:
            end = math.floor(self.stretch * self.epochs * self.steps_per_epoch) / self.steps_per_epoch
        return end - 1 / self.steps_per_epoch if self.end_inclusive else end

    def _epoch_and_left(self, step: Any) -> tuple[Any, Any]:
        """Epochs since the start and until the end."""
        end = self._end()
        if not isinstance(step, jax.Array):
            epoch = step / self.steps_per_epoch
            return epoch, end - epoch
        last, part = divmod(end * self.steps_per_epoch, 1.0)
        left = ((int(last) - step).astype(jnp.float32) + part) / self.steps_per_epoch
        return step.astype(jnp.float32) / self.steps_per_epoch, left

    def _decayed(self, xp: Any, step: Any) -> Any:
        begins = np.asarray([math.ceil(epoch * self.steps_per_epoch) for epoch in self.decay_epochs], np.int32)
        values = [self.peak * self.decay_factor**k for k in range(len(begins) + 1)]
        return xp.asarray(values)[xp.searchsorted(xp.asarray(begins), step, side="right")]


def learning_rate(optimizer: Section, *, batch_size: int, steps_per_epoch: int, epochs: Number) -> Schedule:
    """The learning rate of config section `optimizer` over a run."""
    factor = batch_factor(optimizer, batch_size) if optimizer["scale_min_lr"] else 1.0
    return Schedule(
        peak=peak_lr(optimizer, batch_size),
        minimum=optimizer["min_lr"] * factor,
        warmup_epochs=optimizer["warmup_epochs"],
        start=optimizer["warmup_lr"] * factor,
        shape=optimizer["schedule"],
        decay_epochs=tuple(optimizer["decay_epochs"]),
        decay_factor=optimizer["decay_factor"],
        warmup_inclusive=optimizer["warmup_inclusive"],
        **_length(optimizer, steps_per_epoch, epochs),
    )


def weight_decay(optimizer: Section, *, steps_per_epoch: int, epochs: Number) -> Schedule | None:
    """The weight decay of config section `optimizer` over a run; None where it stays what it is.

    A cosine without warm-up from `weight_decay` to `weight_decay_end` (DINO, Caron et al. 2021, section 3.2).
    """
    if optimizer["weight_decay_end"] < 0:
        return None
    ends = {"peak": optimizer["weight_decay"], "minimum": optimizer["weight_decay_end"]}
    return Schedule(**ends, **_length(optimizer, steps_per_epoch, epochs))


def _length(optimizer: Section, steps_per_epoch: int, epochs: Number) -> dict[str, Any]:
    return {
        "steps_per_epoch": steps_per_epoch,
        "epochs": epochs,
        "end_inclusive": optimizer["end_inclusive"],
        "stretch": optimizer["schedule_stretch"],
        "offset": optimizer["schedule_offset"],
    }


def warmup_cosine(epoch: Scalar, *, peak: Number, minimum: Number, warmup_epochs: Number, epochs: Number) -> Scalar:
    """The plain schedule at fractional epochs: warm-up from 0, then half a cosine down to `minimum` at `epochs`.

    Python and NumPy numbers are computed in float64, JAX arrays in float32. `Schedule` keeps full precision on the
    device, where a float32 epoch late in a long run is itself off by a part of a step.
    """
    xp = jnp if isinstance(epoch, jax.Array) else np
    after = _falling(xp, epochs - epoch, peak, minimum, epochs - warmup_epochs)
    return xp.where(epoch < warmup_epochs, _rising(epoch, 0.0, peak, warmup_epochs), after)[()]


def warmup_cosine_at_step(
    step: int | Int[Array, ""],
    *,
    steps_per_epoch: int,
    peak: Number,
    minimum: Number,
    warmup_epochs: Number,
    epochs: Number,
) -> Scalar:
    """`warmup_cosine` at epoch `step / steps_per_epoch`, exact to float32 rounding for every step of any run."""
    return Schedule(peak, steps_per_epoch, epochs, minimum, warmup_epochs)(step)


def _rising(epoch: Any, start: Number, peak: Number, length: Number) -> Any:
    rise = (peak - start) * epoch / max(length, 1e-12)
    return start + rise if start else rise


def _falling(xp: Any, left: Any, peak: Number, minimum: Number, length: Number) -> Any:
    """(1 + cos(pi x)) / 2 is written as sin(pi (1 - x) / 2)^2: the sum loses every digit near the end in float32.

    Likewise a rising value (weight decay, a teacher's momentum) is counted from its start, the smaller end.
    """
    remaining = xp.clip(left / max(length, 1e-12), 0.0, 1.0)
    if minimum > peak:
        return peak + (minimum - peak) * xp.sin(math.pi / 2 * (1.0 - remaining)) ** 2
    return minimum + (peak - minimum) * xp.sin(math.pi / 2 * remaining) ** 2
