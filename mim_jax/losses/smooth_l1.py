"""The smooth L1 (Huber) error per patch."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def smooth_l1(
    prediction: Float[Array, "*#S D"], target: Float[Array, "*#S D"], beta: float = 1.0
) -> Float[Array, "*S"]:
    """Mean over the values of a patch of d^2 / (2 beta) where |d| < beta and |d| - beta / 2 beyond, float32."""
    distance = jnp.abs(prediction.astype(jnp.float32) - target.astype(jnp.float32))
    near = jnp.square(distance) / (2 * beta)
    return jnp.mean(jnp.where(distance < beta, near, distance - beta / 2), axis=-1)


def mean_per_image(errors: Float[Array, "B *S"], counts: Bool[Array, "B *S"]) -> Float[Array, ""]:
    """Mean over images of the mean of the errors that count; every image must have one.

    So all images weigh alike, also where groups of them, each the batch of one device in the original, differ in how
    many patches they are asked for. Selected, not multiplied: what does not count may hold anything.
    """
    axes = tuple(range(1, errors.ndim))
    return jnp.mean(jnp.where(counts, errors, 0.0).sum(axes) / counts.sum(axes))
