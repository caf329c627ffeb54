"""Learning rates as functions of the fractional epoch, or of the step; nothing here counts."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Number = float | int
Scalar = float | int | Float[np.ndarray, "..."] | Float[Array, "..."]


def warmup_cosine(epoch: Scalar, *, peak: Number, minimum: Number, warmup_epochs: Number, epochs: Number) -> Scalar:
    """Linear warm-up from 0, then half a cosine down to `minimum` at `epochs`; constant there afterwards.

    Python and NumPy numbers are computed in float64, JAX arrays in float32. `warmup_cosine_at_step` keeps full
    precision on the device, where a float32 epoch late in a long run is itself off by a part of a step.
    MAE (He et al. 2022), appendix A.1; SGDR (Loshchilov and Hutter 2017), section 3.
    """
    xp = jnp if isinstance(epoch, jax.Array) else np
    return _value(xp, epoch, epochs - epoch, peak, minimum, warmup_epochs, epochs)


def warmup_cosine_at_step(
    step: int | Int[Array, ""],
    *,
    steps_per_epoch: int,
    peak: Number,
    minimum: Number,
    warmup_epochs: Number,
    epochs: Number,
) -> Scalar:
    """`warmup_cosine` at epoch `step / steps_per_epoch`, exact to float32 rounding for every step of any run.

    The distance to the end is taken in whole steps before it becomes a float.
    """
    if not isinstance(step, jax.Array):
        settings = {"peak": peak, "minimum": minimum, "warmup_epochs": warmup_epochs, "epochs": epochs}
        return warmup_cosine(step / steps_per_epoch, **settings)
    last, part = divmod(epochs * steps_per_epoch, 1.0)
    left = ((int(last) - step).astype(jnp.float32) + part) / steps_per_epoch
    return _value(jnp, step.astype(jnp.float32) / steps_per_epoch, left, peak, minimum, warmup_epochs, epochs)


def _value(xp, epoch, left, peak: Number, minimum: Number, warmup_epochs: Number, epochs: Number):
    """(1 + cos(pi x)) / 2 is written as sin(pi (1 - x) / 2)^2: the sum loses every digit near the end in float32."""
    remaining = left / max(epochs - warmup_epochs, 1e-12)
    cosine = minimum + (peak - minimum) * xp.sin(math.pi / 2 * xp.clip(remaining, 0.0, 1.0)) ** 2
    return xp.where(epoch < warmup_epochs, peak * epoch / max(warmup_epochs, 1e-12), cosine)[()]
