"""Pixels: from stored integers to normalised floats on the device, and back."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped


def unit_range(images: Shaped[Array, "*B C"]) -> Float[Array, "*B C"]:
    """Integer pixels divided by the largest value of their type (uint8: 255, uint16: 65535); floats unchanged."""
    if jnp.issubdtype(images.dtype, jnp.integer):
        return images.astype(jnp.float32) / float(jnp.iinfo(images.dtype).max)
    return images.astype(jnp.float32)


def normalize(images: Shaped[Array, "*B C"], mean: Sequence[float], std: Sequence[float]) -> Float[Array, "*B C"]:
    """(pixels in [0, 1] - mean) / std per channel, float32; one value of mean or std serves all channels."""
    return (unit_range(images) - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)


def denormalize(images: Float[Array, "*B C"], mean: Sequence[float], std: Sequence[float]) -> Float[Array, "*B C"]:
    """Normalised pixels back to [0, 1], clipped."""
    pixels = images.astype(jnp.float32) * jnp.asarray(std, jnp.float32) + jnp.asarray(mean, jnp.float32)
    return jnp.clip(pixels, 0.0, 1.0)
